"""Pretrained encoders, each with the pixels it was trained on."""
