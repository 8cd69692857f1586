"""What trainings learn from: a data set on disk, or rendered views of the tabletop; and batches of random views.

A batch is a function of (seed, step), so every process of a run, and every resumed run, agrees on it.
"""

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Generic, Literal, TypeVar

import numpy as np
import torch
from pydantic import Field
from pydantic.dataclasses import dataclass as pydantic_dataclass
from torch import Tensor

from ovseg_ros.core.command import ovseg_command
from ovseg_ros.core.config import STRICT
from ovseg_ros.core.errors import ConfigError, DatasetError
from ovseg_ros.offline.data.open import dataset_info, open_dataset, shipped_datasets
from ovseg_ros.offline.data.semantic import CategorySegments
from ovseg_ros.offline.data.tabletop_views import TabletopViews, load_or_render
from ovseg_ros.offline.data.types import DatasetCategory, PanopticDataset, PanopticSample, SegmentLabel
from ovseg_ros.offline.train.augmentation import AugmentationConfig, View, draw_view, whole_view
from ovseg_ros.offline.train.engine import Run
from ovseg_ros.offline.train.loop_config import LoopConfig
from ovseg_ros.sim.categories import SEEN

T = TypeVar("T")
Workers = Annotated[int, Field(ge=1, le=256)]

_IMAGES_SHOWN = 3
_READ_AHEAD = 2
"""Samples for each thread."""

logger = logging.getLogger(__name__)


@pydantic_dataclass(frozen=True, slots=True, config=STRICT)
class PanopticData:
    """A data set, of panoptic ground truth unless categories alone are learned. An epoch shows every image once.

    Attributes:
        dataset, split: as `open_dataset` takes them: a name, or the path of a data set's file. Its folder is --data, or
            as the file says.
        on_error: "skip" leaves out a damaged image, named and counted, and takes another; "stop" ends the training.
        workers: threads that read ahead, in each process.
    """

    dataset: str = "coco_panoptic"
    split: str = "train"
    on_error: Literal["skip", "stop"] = "skip"
    workers: Workers = 8
    kind: Literal["panoptic"] = "panoptic"


@pydantic_dataclass(frozen=True, slots=True, config=STRICT)
class RenderedData:
    """Views of the tabletop, rendered once, kept on disk and held in memory. Each is drawn anew from all.

    Attributes:
        scenes, views: `views` poses of each of the first `scenes` scenes of the split.
        split: "train" shows seen categories only, "captions" all.
        wide: so many scenes more, of the same categories, in which everything varies more (`sim.makes.WIDE`).
        workers: threads that read ahead, in each process.
    """

    scenes: Annotated[int, Field(ge=1, le=1_000_000)]
    views: Annotated[int, Field(ge=1, le=1000)]
    split: Literal["train", "captions"] = "train"
    wide: Annotated[int, Field(ge=0, le=1_000_000)] = 0
    workers: Workers = 1
    kind: Literal["rendered"] = "rendered"


DataConfig = Annotated[PanopticData | RenderedData, Field(discriminator="kind")]


def open_data(config: DataConfig, run: Run) -> PanopticDataset:
    """The data set to train on, with instances; errors as of `require_instances` and `open_dataset`."""
    require_instances(config)
    return open_semantic(config, run)


def open_semantic(config: DataConfig, run: Run) -> PanopticDataset:
    """The data set to train on, for what learns categories alone; of a data set without instances, each category that
    an image shows is one segment. Errors as of `open_dataset`."""
    match config:
        case PanopticData():
            dataset = open_dataset(config.dataset, run.data, config.split)
            return dataset if isinstance(dataset, PanopticDataset) else CategorySegments(dataset)
        case RenderedData():
            return RenderedViews(open_rendered(config, run), run.views, config.split)


def require_instances(config: DataConfig) -> None:
    """ConfigError for a data set whose ground truth does not tell things apart."""
    if isinstance(config, PanopticData) and not (info := dataset_info(config.dataset)).is_panoptic:
        if info.is_own:
            advice = f"in {info.file}, write segments: stuff or segments: components in place of none"
        else:
            advice = f"choose one of {', '.join(n for n in shipped_datasets() if dataset_info(n).is_panoptic)}"
        raise ConfigError(f"{config.dataset} has no panoptic ground truth; {advice}")


def shown_categories(config: DataConfig, dataset: PanopticDataset) -> list[DatasetCategory]:
    """The categories that views may show: of the tabletop the seen ones, of a data set all."""
    return [one for one in dataset.categories if isinstance(config, PanopticData) or one.name in SEEN]


def require_seen(config: DataConfig) -> None:
    """ValueError for rendered views that show unseen categories, which no mask may teach."""
    if isinstance(config, RenderedData) and config.split != "train":
        raise ValueError(
            f"data of kind rendered must be of split train, got {config.split}, which shows unseen categories "
            "that no mask may teach"
        )


def open_rendered(config: RenderedData, run: Run) -> TabletopViews:
    """The views to train on; those that do not exist yet are rendered, by the main process alone."""
    with run.engine.main_first():
        return load_or_render(run.views, config.split, scenes=config.scenes, views=config.views, wide=config.wide)


class RenderedViews(PanopticDataset):
    """Rendered views as a data set in memory."""

    def __init__(self, views: TabletopViews, root: Path, split: str) -> None:
        super().__init__("tabletop", root, split, dataset_info("tabletop").categories())
        self._views = views
        self._named = {category.name: category for category in self.categories}

    def __len__(self) -> int:
        return len(self._views)

    def __getitem__(self, index: int) -> PanopticSample:
        ids, labels = self._views.segment_ids[index], self._views.labels[index]
        categories = [self._named[label] for label in labels]
        areas = np.bincount(ids.ravel(), minlength=len(labels) + 1).tolist()[1:]
        segments = tuple(
            SegmentLabel(number, category.index, category.is_thing, is_crowd=False, area=area, declared_area=area)
            for number, (category, area) in enumerate(zip(categories, areas, strict=True), start=1)
        )
        return PanopticSample(self._views.images[index], ids.astype(np.int32), segments, self.name_of(index))

    def name_of(self, index: int) -> str:
        return f"view {index}"


class PanopticStream(Generic[T]):
    """Batches of random views of a data set's images, read ahead by threads.

    Attributes:
        skipped: name -> reason of every image left out.
    """

    def __init__(
        self,
        dataset: PanopticDataset,
        config: DataConfig,
        augmentation: AugmentationConfig,
        loop: LoopConfig,
        prepare: Callable[[PanopticSample, View], T],
    ) -> None:
        """`prepare` makes of a sample and its view what the training wants; called by several threads at once."""
        self.dataset = dataset
        self._config, self._augmentation, self._loop, self._prepare = config, augmentation, loop, prepare
        self._pool = ThreadPoolExecutor(config.workers, thread_name_prefix="samples")
        self._futures: dict[tuple[int, int], Future[T]] = {}
        self._lock = threading.Lock()
        self._epoch: tuple[int, np.ndarray] = (-1, np.empty(0, dtype=np.int64))
        self.skipped: dict[str, str] = {}

    def batch(self, step: int, samples: range) -> list[T]:
        """These samples of a step's batch; they are kept until the next begins, and those of the steps to come are read
        ahead: of one at least, and of so many that no thread waits.

        Raises:
            DatasetError: a damaged image, unless such are skipped; or nothing but damaged images.
        """
        self._futures = {place: future for place, future in self._futures.items() if place[0] >= step}
        own = len({sample for _, sample in self._futures}.union(samples))  # a step's, of this process
        end = min(step + 2 + _READ_AHEAD * self._config.workers // max(1, own), self._loop.steps)
        for place in ((at, sample) for at in range(step, end) for sample in samples):
            if place not in self._futures:
                self._futures[place] = self._pool.submit(self._make, *place)
        return [self._futures[step, sample].result() for sample in samples]

    def shown(self) -> Iterator[T]:
        """For pictures: the run's first images, three at most, each whole and as it is, always the same."""
        for turn in range(min(_IMAGES_SHOWN, self._loop.batch_size, len(self.dataset))):
            sample = self._read(turn, skip=True)
            yield self._prepare(sample, whole_view(sample.segment_ids.shape, self._augmentation))

    def close(self) -> None:
        """End the threads, and say what was skipped."""
        self._pool.shutdown(wait=True, cancel_futures=True)
        if self.skipped:
            logger.warning("%d images were skipped: %s", len(self.skipped), ", ".join(sorted(self.skipped)[:8]))

    def index_of(self, turn: int) -> int:
        """The image of a turn, step * batch size + sample: epochs are permutations of the data set."""
        epoch, place = divmod(turn, len(self.dataset))
        with self._lock:
            if self._epoch[0] != epoch:
                self._epoch = (epoch, np.random.default_rng([self._loop.seed, epoch]).permutation(len(self.dataset)))
            return int(self._epoch[1][place])

    def _make(self, step: int, sample: int) -> T:
        progress = step / self._loop.steps
        match self._config:
            case PanopticData():  # a random generator for each sample
                loaded = self._read(step * self._loop.batch_size + sample, skip=self._config.on_error == "skip")
                rng = np.random.default_rng([self._loop.seed, step, sample])
                view = draw_view(loaded, self._augmentation, rng, progress)
            case RenderedData():  # one for the whole batch, so those before this one are drawn, too
                rng = np.random.default_rng([self._loop.seed, step])
                for index in rng.integers(len(self.dataset), size=self._loop.batch_size)[: sample + 1]:
                    loaded = self.dataset[index]
                    view = draw_view(loaded, self._augmentation, rng, progress)
        return self._prepare(loaded, view)

    def _read(self, number: int, *, skip: bool) -> PanopticSample:
        """The image whose turn it is, or the next one that can be read."""
        epoch = number // len(self.dataset)
        for turn in range(number, (epoch + 2) * len(self.dataset)):  # the rest of this epoch, and every image
            index = self.index_of(turn)
            try:
                sample = self.dataset[index]
            except DatasetError as error:
                if not skip:
                    raise
                name = self.dataset.name_of(index)
                with self._lock:
                    if name not in self.skipped:
                        self.skipped[name] = str(error)
                        logger.warning("skipped the image %s, number %d so far: %s", name, len(self.skipped), error)
                continue
            if not sample.is_void:
                return sample
        raise DatasetError(
            f"no image of {self.dataset.name} {self.dataset.split} in {self.dataset.root} can be trained on; "
            f"{ovseg_command()} check-dataset {self.dataset.name} says why"
        )


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
    pixels = torch.stack([image.to(device, non_blocking=True) for image in images])
    return pixels if pixels.is_floating_point() else pixels.float() / 255
