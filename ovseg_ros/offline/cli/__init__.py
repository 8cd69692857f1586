"""The command line, `ovseg`."""
