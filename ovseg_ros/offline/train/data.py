"""What trainings learn from: a data set on disk, or rendered views of the tabletop; and batches of random views.

A batch is a function of (seed, step), so every process of a run, and every resumed run, agrees on it.
"""

import logging
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Generic, Literal, TypeVar

import numpy as np
import torch
from pydantic import PositiveInt
from pydantic.dataclasses import dataclass as pydantic_dataclass
from torch import Tensor

from ovseg_ros.core.config import STRICT
from ovseg_ros.core.errors import ConfigError, DatasetError
from ovseg_ros.offline.data.open import dataset_info, open_dataset
from ovseg_ros.offline.data.tabletop_views import TabletopViews, load_or_render
from ovseg_ros.offline.data.types import DatasetCategory, PanopticDataset, PanopticSample, SegmentLabel
from ovseg_ros.offline.train.augmentation import AugmentationConfig, View, draw_view
from ovseg_ros.offline.train.loop_config import LoopConfig
from ovseg_ros.offline.train.task import Run

T = TypeVar("T")

logger = logging.getLogger(__name__)


@pydantic_dataclass(frozen=True, slots=True, config=STRICT)
class PanopticData:
    """A data set with panoptic ground truth, in the folder --data. An epoch shows every image once.

    Attributes:
        dataset, split: as `open_dataset` takes them.
        on_error: "skip" leaves out a damaged image, named and counted, and takes another; "stop" ends the training.
        workers: threads that read ahead, in each process.
    """

    dataset: str = "coco_panoptic"
    split: str = "train"
    on_error: Literal["skip", "stop"] = "skip"
    workers: PositiveInt = 8
    kind: Literal["panoptic"] = "panoptic"


@pydantic_dataclass(frozen=True, slots=True, config=STRICT)
class RenderedData:
    """Views of the tabletop, rendered once into the folder --data and held in memory. Each is drawn anew from all.

    Attributes:
        scenes, views: `views` poses of each of the first `scenes` scenes of the split.
        split: "train" shows seen categories only, "captions" all.
    """

    scenes: PositiveInt
    views: PositiveInt
    split: Literal["train", "captions"] = "train"
    kind: Literal["rendered"] = "rendered"


DataConfig = PanopticData | RenderedData


def open_panoptic(config: PanopticData, run: Run) -> PanopticDataset:
    """The data set to train on.

    Raises:
        ConfigError: it is unknown, or has no panoptic ground truth.
        DatasetError: it is missing or malformed.
    """
    dataset = open_dataset(config.dataset, run.data, config.split)
    if not isinstance(dataset, PanopticDataset):
        raise ConfigError(
            f"{config.dataset} has no panoptic ground truth; choose a data set whose name ends in _panoptic"
        )
    return dataset


def open_rendered(config: RenderedData, run: Run) -> TabletopViews:
    """The views to train on; those that do not exist yet are rendered, by the main process alone.

    Raises:
        DatasetError: a file of them cannot be read.
    """
    with run.engine.main_first():
        return load_or_render(run.data or run.out / "data", config.split, scenes=config.scenes, views=config.views)


class Batches(ABC, Generic[T]):
    """Random views of samples, made into what a training wants.

    Attributes:
        name: of the data set.
        categories: of its segments.
    """

    name: str
    categories: Sequence[DatasetCategory]

    @abstractmethod
    def batch(self, step: int, samples: range) -> list[T]:
        """These samples of a step's batch.

        Raises:
            DatasetError: a damaged image, unless such are skipped; or nothing but damaged images.
        """

    @abstractmethod
    def at_hand(self, samples: range) -> range:
        """What of a batch this process has when it computes `samples`, without reading for it."""

    def close(self) -> None:
        """Let go of what reads."""


class RenderedBatches(Batches[T]):
    """Views drawn with replacement; one random generator makes a step's whole batch.

    Args:
        prepare: makes of a sample and its view what the training wants.
    """

    def __init__(
        self,
        views: TabletopViews,
        augmentation: AugmentationConfig,
        loop: LoopConfig,
        prepare: Callable[[PanopticSample, View], T],
    ) -> None:
        self.name, self.categories = "tabletop", dataset_info("tabletop").categories()
        self._index_of = {category.name: category.index for category in self.categories}
        self._views, self._augmentation, self._loop, self._prepare = views, augmentation, loop, prepare

    def batch(self, step: int, samples: range) -> list[T]:
        """See `Batches`."""
        rng = np.random.default_rng([self._loop.seed, step])
        drawn = []
        for index in rng.integers(len(self._views), size=self._loop.batch_size):
            sample = self._sample(index)
            drawn.append((sample, draw_view(sample, self._augmentation, rng, step / self._loop.steps)))
        return [self._prepare(*drawn[number]) for number in samples]

    def at_hand(self, samples: range) -> range:
        """See `Batches`."""
        return range(self._loop.batch_size)

    def _sample(self, index: int) -> PanopticSample:
        ids, labels = self._views.segment_ids[index], self._views.labels[index]
        areas = np.bincount(ids.ravel(), minlength=len(labels) + 1).tolist()
        segments = []
        for number, label in enumerate(labels, start=1):
            category = self.categories[self._index_of[label]]
            area = areas[number]
            segments.append(SegmentLabel(number, category.index, category.is_thing, False, area, area))
        return PanopticSample(self._views.images[index], ids.astype(np.int32), tuple(segments), f"view {index}")


class PanopticStream(Batches[T]):
    """Samples of a data set in a random order, read ahead by threads; a random generator for each.

    Args:
        prepare: makes of a sample and its view what the training wants; called by several threads at once.

    Attributes:
        skipped: name -> reason of every image left out.
    """

    def __init__(
        self,
        dataset: PanopticDataset,
        config: PanopticData,
        augmentation: AugmentationConfig,
        loop: LoopConfig,
        prepare: Callable[[PanopticSample, View], T],
    ) -> None:
        self.name, self.categories = dataset.name, dataset.categories
        self._dataset, self._on_error, self._augmentation = dataset, config.on_error, augmentation
        self._loop, self._prepare = loop, prepare
        self._pool = ThreadPoolExecutor(config.workers, thread_name_prefix="samples")
        self._futures: dict[tuple[int, int], Future[T]] = {}
        self._lock = threading.Lock()
        self._epoch: tuple[int, np.ndarray] = (-1, np.empty(0, dtype=np.int64))
        self.skipped: dict[str, str] = {}

    def batch(self, step: int, samples: range) -> list[T]:
        """See `Batches`. Reads ahead the same samples of the next step, and keeps those of this one until then."""
        self._futures = {place: future for place, future in self._futures.items() if place[0] >= step}
        wanted = [self._future(step, sample) for sample in samples]
        if step + 1 < self._loop.steps:
            for sample in samples:
                self._future(step + 1, sample)
        return [future.result() for future in wanted]

    def at_hand(self, samples: range) -> range:
        """See `Batches`."""
        return samples

    def close(self) -> None:
        """End the threads, and say what was skipped."""
        self._pool.shutdown(wait=True, cancel_futures=True)
        if self.skipped:
            logger.warning("%d images were skipped: %s", len(self.skipped), ", ".join(sorted(self.skipped)[:8]))

    def _future(self, step: int, sample: int) -> "Future[T]":
        if (step, sample) not in self._futures:
            self._futures[step, sample] = self._pool.submit(self._make, step, sample)
        return self._futures[step, sample]

    def _make(self, step: int, sample: int) -> T:
        loaded = self._read(step * self._loop.batch_size + sample)
        rng = np.random.default_rng([self._loop.seed, step, sample])
        return self._prepare(loaded, draw_view(loaded, self._augmentation, rng, step / self._loop.steps))

    def _read(self, number: int) -> PanopticSample:
        """The image whose turn it is, or the next one that can be read."""
        for turn in range(number, number + len(self._dataset)):
            index = self.index_of(turn)
            try:
                sample = self._dataset[index]
            except DatasetError as error:
                if self._on_error == "stop":
                    raise
                name = self._dataset.name_of(index)
                with self._lock:
                    if name not in self.skipped:
                        self.skipped[name] = str(error)
                        logger.warning("skipped the image %s, number %d so far: %s", name, len(self.skipped), error)
                continue
            if not sample.is_void:
                return sample
        raise DatasetError(
            f"no image of {self._dataset.name} {self._dataset.split} in {self._dataset.root} can be trained on; "
            "ovseg check-dataset says why"
        )

    def index_of(self, turn: int) -> int:
        """The image of a turn, step * batch size + sample: epochs are permutations of the data set."""
        epoch, place = divmod(turn, len(self._dataset))
        with self._lock:
            if self._epoch[0] != epoch:
                self._epoch = (epoch, np.random.default_rng([self._loop.seed, epoch]).permutation(len(self._dataset)))
            return int(self._epoch[1][place])


def open_batches(
    data: DataConfig,
    augmentation: AugmentationConfig,
    loop: LoopConfig,
    prepare: Callable[[PanopticSample, View], T],
    run: Run,
) -> Batches[T]:
    """Batches of a stage's data.

    Raises:
        ConfigError, DatasetError: as `open_panoptic` and `open_rendered`.
    """
    match data:
        case PanopticData():
            return PanopticStream(open_panoptic(data, run), data, augmentation, loop, prepare)
        case RenderedData():
            return RenderedBatches(open_rendered(data, run), augmentation, loop, prepare)


@dataclass(frozen=True, slots=True)
class SegmentedView:
    """A view of a training image: `image` (3, H, W), uint8 or float in [0, 1], `segment_ids` int32 (H, W), and of the
    segments to find `ids` and `categories`, (N,) int64 each. Crowds are not to be found."""

    image: Tensor
    segment_ids: Tensor
    ids: Tensor
    categories: Tensor


def segmented_view(sample: PanopticSample, view: View) -> SegmentedView:
    """A view of a sample; its segments are those that show in it."""
    segment_ids = view.of_segments(sample.segment_ids)
    present = set(np.unique(segment_ids).tolist())
    segments = [segment for segment in sample.segments if segment.id in present and not segment.is_crowd]
    return SegmentedView(
        image=torch.from_numpy(view.of_image(sample.image)).permute(2, 0, 1),
        segment_ids=torch.from_numpy(segment_ids),
        ids=torch.tensor([segment.id for segment in segments], dtype=torch.int64),
        categories=torch.tensor([segment.category for segment in segments], dtype=torch.int64),
    )


def to_pixels(images: Sequence[Tensor], device: torch.device) -> Tensor:
    """Views (3, H, W), uint8 or in [0, 1], -> (B, 3, H, W) float in [0, 1]."""
    pixels = torch.stack(list(images)).to(device)
    return pixels if pixels.is_floating_point() else pixels.float() / 255
