"""Public data sets in their published formats; `open_dataset` in `datasets.open` is the way in."""
