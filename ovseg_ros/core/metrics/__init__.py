"""Panoptic quality, mean IoU and mask recall; NumPy only."""
