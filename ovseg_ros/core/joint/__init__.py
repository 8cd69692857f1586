"""Models that make masks and name them at once (`core.model.Model`), rather than in two stages."""
