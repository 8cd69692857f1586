"""Data sets, images and recordings on disk."""
