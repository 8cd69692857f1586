"""Weight files: where they are, what is in them, and whether they fit."""
