"""EoMT and its published checkpoints."""
