"""Images with a category for each pixel, as LMSeg learns from them: random views, or whole ones, encoded once."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from ovseg_ros.core.scoring.lmseg.scorer import Encoded, LMSegScorer
from ovseg_ros.offline.data.types import PanopticDataset, PanopticSample
from ovseg_ros.offline.train.augmentation import AugmentationConfig, View
from ovseg_ros.offline.train.data import DataConfig, PanopticStream, segmented_view, to_pixels
from ovseg_ros.offline.train.loop_config import LoopConfig

IGNORED = -1
"""Label of pixels without a category."""
_SHOWN = 3


@dataclass(frozen=True, slots=True)
class LabelledView:
    """An image (3, H, W), in [0, 1], and its labels (H, W): int64 places among the categories, or `IGNORED`."""

    image: Tensor
    labels: Tensor


class LabelledViews(ABC):
    """Samples of a step's batch: functions of (seed, step, sample)."""

    @abstractmethod
    def labels(self, step: int, samples: range) -> list[Tensor]:
        """(H, W) of each."""

    @abstractmethod
    def encoded(self, step: int, samples: range) -> Encoded:
        """What the encoders make of them, with gradients for those that learn."""

    @abstractmethod
    def shown(self) -> Iterator[LabelledView]:
        """Some images for pictures, always the same."""

    @abstractmethod
    def close(self) -> None:
        """End what reads ahead."""


class AugmentedViews(LabelledViews):
    """Random views, read ahead by threads."""

    def __init__(
        self,
        dataset: PanopticDataset,
        places: Mapping[int, int],
        config: DataConfig,
        augmentation: AugmentationConfig,
        loop: LoopConfig,
        scorer: LMSegScorer,
    ) -> None:
        """`places`: of the data set's categories among those of the labels."""
        self._places, self._scorer = places, scorer
        self._stream = PanopticStream(dataset, config, augmentation, loop, self._labelled)

    def labels(self, step: int, samples: range) -> list[Tensor]:
        return [view.labels for view in self._stream.batch(step, samples)]

    def encoded(self, step: int, samples: range) -> Encoded:
        device = self._scorer.embed.weight.device
        return self._scorer.encode(to_pixels([view.image for view in self._stream.batch(step, samples)], device))

    def shown(self) -> Iterator[LabelledView]:
        for view in self._stream.shown():
            yield LabelledView(to_pixels([view.image], torch.device("cpu"))[0], view.labels)

    def close(self) -> None:
        self._stream.close()

    def _labelled(self, sample: PanopticSample, view: View) -> LabelledView:
        seen = segmented_view(sample, view)
        labels = torch.full(seen.segment_ids.shape, IGNORED, dtype=torch.int64)
        for number, category in zip(seen.ids.tolist(), seen.categories.tolist(), strict=True):
            labels[seen.segment_ids == number] = self._places.get(category, IGNORED)
        return LabelledView(seen.image, labels)


class WholeViews(LabelledViews):
    """All images of a data set as they are, in memory; of encoders that stay as they are, with their features."""

    def __init__(
        self, dataset: PanopticDataset, places: Mapping[int, int], loop: LoopConfig, scorer: LMSegScorer
    ) -> None:
        """`places`: of the data set's categories among those of the labels."""
        self._loop, self._scorer = loop, scorer
        samples = [dataset[index] for index in range(len(dataset))]
        self._images = [torch.from_numpy(sample.image).permute(2, 0, 1) for sample in samples]
        self._labels = [_labels(sample, places) for sample in samples]
        self._encoded: list[Encoded] = [] if scorer.encoders_learn else self._encode_all()

    def labels(self, step: int, samples: range) -> list[Tensor]:
        return [self._labels[index].long() for index in self._indices(step)[samples.start : samples.stop]]

    def encoded(self, step: int, samples: range) -> Encoded:
        indices = self._indices(step)[samples.start : samples.stop]
        if not self._encoded:
            return self._scorer.encode(self._pixels(indices))
        return _together([self._encoded[index] for index in indices])

    def shown(self) -> Iterator[LabelledView]:
        for image, labels in zip(self._images[:_SHOWN], self._labels, strict=False):
            yield LabelledView(image.float() / 255, labels.long())

    def close(self) -> None:
        """Nothing reads ahead."""

    def _encode_all(self) -> list[Encoded]:
        numbers = tqdm(range(len(self._images)), desc="features", unit="view", mininterval=5)
        with torch.no_grad():
            return [_kept(self._scorer.encode(self._pixels([index]))) for index in numbers]

    def _pixels(self, indices: Sequence[int]) -> Tensor:
        return to_pixels([self._images[index] for index in indices], self._scorer.embed.weight.device)

    def _indices(self, step: int) -> list[int]:
        generator = np.random.default_rng([self._loop.seed, step])
        chosen: list[int] = generator.integers(len(self._labels), size=self._loop.batch_size).tolist()
        return chosen


def _labels(sample: PanopticSample, places: Mapping[int, int]) -> Tensor:
    """(H, W) int16."""
    table = np.full(1 + max([0, *(segment.id for segment in sample.segments)]), IGNORED, np.int16)
    for segment in sample.segments:
        table[segment.id] = IGNORED if segment.is_crowd else places.get(segment.category, IGNORED)
    return torch.from_numpy(table[sample.segment_ids])


def _kept(encoded: Encoded) -> Encoded:
    """In half precision: of a few hundred views, many hundreds of megabytes."""
    second = None if encoded.second is None else encoded.second.half()
    return Encoded(encoded.clip.half(), tuple(skip.half() for skip in encoded.skips), second)


def _together(parts: Sequence[Encoded]) -> Encoded:
    """Of one image each -> of all, in float32."""
    seconds = [part.second for part in parts if part.second is not None]
    return Encoded(
        torch.cat([part.clip for part in parts]).float(),
        tuple(torch.cat(skips).float() for skips in zip(*(part.skips for part in parts), strict=True)),
        torch.cat(seconds).float() if seconds else None,
    )
