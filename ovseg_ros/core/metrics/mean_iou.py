"""Mean intersection over union of a semantic map, accumulated over images."""

from collections import Counter
from collections.abc import Collection, Mapping

import numpy as np

from ovseg_ros.core.errors import DatasetError


class MeanIoU:
    """Pixel counts by category over all images; a category's IoU is taken over the whole set, not by image.

    Args:
        void: the value of pixels without a category, in both maps (`core.types.NO_CATEGORY` in a `PanopticResult`).
    """

    def __init__(self, void: int) -> None:
        self._void = void
        self._intersection: Counter[int] = Counter()
        self._predicted: Counter[int] = Counter()
        self._truth: Counter[int] = Counter()

    def add(self, predicted: np.ndarray, truth: np.ndarray) -> None:
        """Add one image.

        Pixels that the truth leaves void are ignored; pixels that only the prediction leaves void are errors.

        Args:
            predicted: (H, W) integer category ids.
            truth: (H, W) integer category ids.

        Raises:
            DatasetError: the two maps differ in shape.
        """
        if predicted.shape != truth.shape:
            raise DatasetError(f"the prediction is {predicted.shape} and the truth is {truth.shape}; they must agree")
        labelled = truth != self._void
        predicted, truth = predicted[labelled], truth[labelled]
        for counter, values in (
            (self._intersection, truth[predicted == truth]),
            (self._predicted, predicted[predicted != self._void]),
            (self._truth, truth),
        ):
            categories, pixels = np.unique(values, return_counts=True)
            counter.update(dict(zip(categories.tolist(), pixels.tolist(), strict=True)))

    def counts(self) -> dict[int, tuple[int, int, int]]:
        """Pixels of every category met: in both maps, in the prediction, in the truth."""
        met = sorted(self._truth.keys() | self._predicted.keys())
        return {k: (self._intersection[k], self._predicted[k], self._truth[k]) for k in met}

    def add_counts(self, counts: Mapping[int, tuple[int, int, int]]) -> None:
        """Add what `counts` of another one gave."""
        for counter, place in ((self._intersection, 0), (self._predicted, 1), (self._truth, 2)):
            counter.update({k: pixels[place] for k, pixels in counts.items() if pixels[place]})

    def per_category(self) -> dict[int, float]:
        """IoU in percent of every category with a true or a predicted pixel, in the order of its id."""
        return {
            k: 100.0 * self._intersection[k] / (self._truth[k] + self._predicted[k] - self._intersection[k])
            for k in sorted(self._truth.keys() | self._predicted.keys())
        }

    def result(self, categories: Collection[int] | None = None, *, only_in_truth: bool = False) -> float:
        """Mean over categories in percent; NaN if none is left.

        Args:
            categories: which; None for all.
            only_in_truth: leave out categories without a true pixel, as the usual semantic benchmarks do; else only
                those with neither a true nor a predicted pixel are left out.
        """
        values = [
            iou
            for k, iou in self.per_category().items()
            if (categories is None or k in categories) and not (only_in_truth and self._truth[k] == 0)
        ]
        return float(np.mean(values)) if values else float("nan")
