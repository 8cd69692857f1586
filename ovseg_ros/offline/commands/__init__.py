"""The subcommands of `ovseg`, one to a file; `add` describes the command line, `run` imports what it needs."""
