"""`python -m trustwatch`: the same as the `trustwatch` script."""

from trustwatch.api.cli.main import main

if __name__ == "__main__":
    main()
