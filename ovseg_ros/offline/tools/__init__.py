"""What the subcommands of `ovseg` do, beside training and evaluation."""
