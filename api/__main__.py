"""`python -m trustwatch.api`: the same as the `trustwatch` script."""

from .cli import main

if __name__ == "__main__":
    main()
