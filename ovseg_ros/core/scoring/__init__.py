"""Models that score every pixel for every word: what names masks and what segments without masks both read."""
