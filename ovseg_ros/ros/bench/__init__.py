"""The node under a clock, in this process and in its own."""
