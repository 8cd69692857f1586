"""How far a figure would move with other images of the same kind."""

from collections.abc import Callable

import numpy as np


def bootstrap_interval(
    figure: Callable[[np.ndarray], np.ndarray], images: int, level: float, resamples: int, seed: int
) -> tuple[float, float]:
    """Percentile-bootstrap interval (low, high), resampling images with replacement; NaN where there is no figure.

    Args:
        figure: how often each image counts, (resamples, images) float64 -> the figure (resamples,), or NaN.
        level: coverage in (0, 1).
    """
    if images == 0:
        return float("nan"), float("nan")
    rng = np.random.default_rng(seed)
    weights = rng.multinomial(images, np.full(images, 1.0 / images), size=resamples).astype(np.float64)
    with np.errstate(invalid="ignore"):
        values = figure(weights)
    values = values[np.isfinite(values)]
    if values.size == 0:
        return float("nan"), float("nan")
    tail = 50.0 * (1.0 - level)
    low, high = np.percentile(values, [tail, 100.0 - tail])
    return float(low), float(high)
