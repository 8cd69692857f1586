"""The simulated camera and the client that `make demo` runs."""
