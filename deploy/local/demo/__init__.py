"""One sale from start to end, with a crowd of real HTTP clients and a verdict. `make demo` runs it."""
