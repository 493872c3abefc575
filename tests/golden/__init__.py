"""Golden results: what users see of the program, recorded before the code was moved, and data that 0.1 wrote."""
