"""Class-agnostic mask recall: the share of true segments that some predicted mask covers well enough."""

import numpy as np

from ovseg_ros.core.metrics.bootstrap import bootstrap_interval


class MaskRecall:
    """Recall of true segments, things and stuff alike, image by image; `MaskOverlaps.covered` counts."""

    def __init__(self) -> None:
        self._found: list[int] = []
        self._segments: list[int] = []

    def add(self, found: int, segments: int) -> None:
        """Add one image by its number of found and of all true segments."""
        self._found.append(found)
        self._segments.append(segments)

    def result(self) -> float:
        """Recall in percent over all segments of all images; NaN when there was none."""
        return 100.0 * sum(self._found) / sum(self._segments) if sum(self._segments) else float("nan")

    def confidence_interval(self, *, level: float = 0.95, resamples: int = 1000, seed: int = 0) -> tuple[float, float]:
        """Percentile-bootstrap interval in percent, resampling images; (NaN, NaN) when there was no segment."""
        found, segments = np.array(self._found), np.array(self._segments)
        return bootstrap_interval(
            lambda weights: 100.0 * (weights @ found) / (weights @ segments), len(found), level, resamples, seed
        )
