"""Class-agnostic mask recall: the share of true segments that some predicted mask covers well enough."""

import numpy as np


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
        images = len(self._found)
        if sum(self._segments) == 0:
            return float("nan"), float("nan")
        generator = np.random.default_rng(seed)
        weights = generator.multinomial(images, np.full(images, 1.0 / images), size=resamples)
        segments = weights @ np.array(self._segments)
        recall = 100.0 * (weights @ np.array(self._found))[segments > 0] / segments[segments > 0]
        tail = 50.0 * (1.0 - level)
        low, high = np.percentile(recall, [tail, 100.0 - tail])
        return float(low), float(high)
