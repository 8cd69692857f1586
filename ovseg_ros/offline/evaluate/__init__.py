"""Measuring a preset on a data set by the field's protocol; docs/evaluation.md states every rule."""
