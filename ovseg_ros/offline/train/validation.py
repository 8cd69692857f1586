"""How good what is being trained is by now: measured by the evaluator, on the same images each time."""

import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Annotated

import numpy as np
import torch
from pydantic import Field, PositiveInt
from pydantic.dataclasses import dataclass
from tqdm import tqdm

from ovseg_ros.core.config import STRICT
from ovseg_ros.core.errors import ConfigError, DatasetError, ImageError, OvsegError
from ovseg_ros.core.metrics.mask_recall import MaskRecall
from ovseg_ros.core.metrics.mean_iou import MeanIoU
from ovseg_ros.core.metrics.panoptic_quality import PanopticQuality
from ovseg_ros.core.segmenter import PanopticSegmenter
from ovseg_ros.core.types import NO_CATEGORY
from ovseg_ros.core.vocabulary import normalize_name
from ovseg_ros.offline.data.open import dataset_info, open_dataset
from ovseg_ros.offline.data.tabletop_views import load_or_render
from ovseg_ros.offline.data.types import DatasetCategory, PanopticDataset, PanopticSample, SemanticDataset
from ovseg_ros.offline.evaluate.measure import Evaluator
from ovseg_ros.offline.evaluate.pictures import comparison
from ovseg_ros.offline.evaluate.record import ImageRecord
from ovseg_ros.offline.evaluate.truth import truth_of
from ovseg_ros.offline.train.data import DataConfig, PanopticData, RenderedViews, open_semantic
from ovseg_ros.offline.train.engine import Engine, Run
from ovseg_ros.sim.scene import SPLITS

THING, STUFF = 0, 1
"""Categories of masks without names."""
_NAMES_TOLD = 8

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, config=STRICT)
class ValidationConfig:
    """When and on what to validate.

    Attributes:
        every: steps from one validation to the next; the last step has one, too.
        images: how many images of the split, evenly spread over it; 0 = all.
        split, dataset: as `open_dataset` takes them; None = the stage's own data.
        pictures: how many of the images are shown, the first ones.
        patience: validations without a new best after which overfitting is warned of.
    """

    every: PositiveInt
    images: Annotated[int, Field(ge=0, le=1_000_000)] = 250
    split: Annotated[str, Field(min_length=1)] = "val"
    dataset: str | None = None
    pictures: Annotated[int, Field(ge=0, le=100)] = 3
    patience: PositiveInt = 5


class ThingsAndStuff(PanopticDataset):
    """A data set whose segments are called "thing" or "stuff". Each is to be found by itself, so the merge is to join
    none: both categories are of things."""

    def __init__(self, dataset: PanopticDataset) -> None:
        categories = [DatasetCategory(i, i, name, (), is_thing=True) for i, name in enumerate(("thing", "stuff"))]
        super().__init__(dataset.name, dataset.root, dataset.split, categories, dataset.scenes)
        self._dataset = dataset

    def __len__(self) -> int:
        return len(self._dataset)

    def name_of(self, index: int) -> str:
        return self._dataset.name_of(index)

    def __getitem__(self, index: int) -> PanopticSample:
        sample = self._dataset[index]
        segments = (replace(one, category=THING if one.is_thing else STUFF, is_thing=True) for one in sample.segments)
        return replace(sample, segments=tuple(segments))


class Validation:
    """The images of a stage's validations, and how they are measured.

    Attributes:
        config: of the stage.
        of: what is measured on, in words; scores of another cannot be compared.
    """

    def __init__(
        self,
        config: ValidationConfig,
        dataset: PanopticDataset | SemanticDataset,
        engine: Engine,
        groups: Mapping[str, Collection[str]] | None = None,
    ) -> None:
        """`groups`: as of `DatasetInfo`. ConfigError if the split is empty."""
        count = len(dataset)
        if not count:
            raise ConfigError(f"validation: {dataset.name} {dataset.split} has no images; choose another split")
        wanted = min(config.images or count, count)
        self.config, self.of = config, f"{dataset.name} {dataset.split}, {wanted} images"
        self._dataset, self._engine, self._named = dataset, engine, groups or {}
        self._indices = [place * count // wanted for place in range(wanted)]
        self._faulty: set[str] = set()

    def is_due(self, step: int, steps: int) -> bool:
        """Whether there is a validation after `step` of `steps` steps."""
        return step > 0 and (step % self.config.every == 0 or step == steps)

    def check(self, segmenter: PanopticSegmenter) -> None:
        """Say before the first step what would be wrong at the first validation.

        Raises:
            ConfigError: none of the data set's words is known.
        """
        try:
            prompt = segmenter.prepare(self._dataset.vocabulary())
        except OvsegError as error:
            raise ConfigError(f"validation: {error}") from error
        if self._engine.is_main:
            for remark in prompt.remarks:
                logger.warning("validation: %s", remark)

    def measure(self, segmenter: PanopticSegmenter) -> tuple[dict[str, float], dict[str, np.ndarray]]:
        """Measure what would be used, in evaluation mode; called by every process at once.

        Returns:
            Figures in percent by name, the same in every process, those left out for which nothing was counted; and, in
            the main process, pictures of the images, uint8 RGB (H, W, 3), by name.
        """
        engine = self._engine
        devices = [engine.device] if engine.device.type == "cuda" else []
        with torch.random.fork_rng(devices), torch.no_grad():
            vocabulary = self._dataset.vocabulary()
            evaluator = Evaluator(segmenter, segmenter.prepare(vocabulary), detections=False)
            mine = self._indices[engine.rank :: engine.world]
            bar = tqdm(mine, desc="validation", unit="image", leave=False, disable=not engine.is_main)
            records = engine.gather([self._record(evaluator, index) for index in bar])
            self._tell(records)
            pictures = self._pictures(evaluator) if engine.is_main else {}
        return figures_of(records, self._groups()), pictures

    def _record(self, evaluator: Evaluator, index: int) -> ImageRecord:
        try:
            return evaluator.measure(truth_of(self._dataset[index]))
        except (DatasetError, ImageError) as error:
            return ImageRecord(self._dataset.name_of(index), fault=str(error))

    def _pictures(self, evaluator: Evaluator) -> dict[str, np.ndarray]:
        shown = {}
        for index in self._indices[: self.config.pictures]:
            try:
                truth = truth_of(self._dataset[index])
            except (DatasetError, ImageError):
                continue  # as `_tell` says
            shown[truth.name] = comparison(truth, *evaluator.segments(truth), evaluator.vocabulary)
        return shown

    def _groups(self) -> dict[str, Collection[int]]:
        if isinstance(self._dataset, ThingsAndStuff):
            return {"things": [THING], "stuff": [STUFF]}
        categories = self._dataset.categories
        return {
            "things": [one.index for one in categories if one.is_thing],
            "stuff": [one.index for one in categories if not one.is_thing],
            **{name: [one.index for one in categories if one.name in group] for name, group in self._named.items()},
        }

    def _tell(self, records: Sequence[ImageRecord]) -> None:
        """Warn of each damaged image once, and of validations that count nothing."""
        faults = {record.name: record.fault for record in records if record.fault}
        new = sorted(faults.keys() - self._faulty)
        self._faulty |= faults.keys()
        if not self._engine.is_main:
            return
        if new:
            told = "; ".join(f"{name}: {faults[name]}" for name in new[:_NAMES_TOLD])
            logger.warning("validation: %d of %d images cannot be read: %s", len(new), len(records), told)
        if not any(record.is_counted for record in records):
            logger.warning("validation: no image of %s could be measured, so there is no score and no best", self.of)


def open_validation(
    config: ValidationConfig | None, data: DataConfig, run: Run, *, named: bool = True
) -> Validation | None:
    """What a stage on `data` is validated on, or None if it is not to be. Of a data set, no image is read; views of the
    tabletop are rendered, and kept.

    Args:
        named: False for masks that are only things or stuff.

    Raises:
        ConfigError: there is no such data set or split, it is empty, or its categories are not those of the split that
            is trained on.
    """
    if config is None:
        return None
    try:
        dataset = _open(config, data, run)
        if config.dataset is None and isinstance(data, PanopticData):
            _require_same_categories(dataset, data, run)
    except OvsegError as error:
        raise ConfigError(f"validation: {error}; or train without a validation: validation=null") from error
    if not named:
        assert isinstance(dataset, PanopticDataset)  # as is what masks are learned from
        dataset = ThingsAndStuff(dataset)
    return Validation(config, dataset, run.engine, dataset_info(dataset.name).groups)


def _open(config: ValidationConfig, data: DataConfig, run: Run) -> PanopticDataset | SemanticDataset:
    if isinstance(data, PanopticData):
        return open_dataset(config.dataset or data.dataset, run.data, config.split)
    if config.dataset is not None:
        return open_dataset(config.dataset, None if run.only_rendered else run.data, config.split)
    if config.split not in SPLITS:
        raise ConfigError(f"the tabletop has no split {config.split!r}; expected {', '.join(SPLITS)}")
    if not config.images:
        raise ConfigError("the tabletop is rendered, as many images as one likes; say how many: images")
    with run.engine.main_first():  # as `ovseg evaluate` renders them
        views = load_or_render(run.views, config.split, scenes=config.images, views=1)
    return RenderedViews(views, run.views, config.split)


def _require_same_categories(dataset: PanopticDataset | SemanticDataset, data: PanopticData, run: Run) -> None:
    """DatasetError where a split's annotations have a category that the training's have not, or is a thing there and
    stuff here; ids and order may differ, and some may be missing."""
    if dataset_info(data.dataset).categories():
        return  # of the whole data set
    trained = {normalize_name(one.name): one.is_thing for one in open_semantic(data, run).categories}
    others = [one.name for one in dataset.categories if trained.get(normalize_name(one.name)) != one.is_thing]
    if others:
        more = f" and {len(others) - _NAMES_TOLD} more" if len(others) > _NAMES_TOLD else ""
        raise DatasetError(
            f"{dataset.name}: {dataset.split} has categories that {data.split} has not, or not as things or stuff "
            f"alike: {', '.join(others[:_NAMES_TOLD])}{more}; give both splits the same table of categories"
        )


def figures_of(records: Sequence[ImageRecord], groups: Mapping[str, Collection[int]]) -> dict[str, float]:
    """Figures of a validation, in percent, but for `images`, which counted.

    Where the truth has segments, `pq`, `sq`, `rq`, `pq_GROUP` and `mask_recall` (masks proposed at an IoU of 0.5);
    everywhere `miou`. What nothing was counted for is left out.

    Args:
        records: in any order.
        groups: category indices by a group's name.
    """
    quality, pixels, recall = PanopticQuality(), MeanIoU(NO_CATEGORY), MaskRecall()
    counted = sorted((record for record in records if record.is_counted), key=lambda record: record.name)
    for record in counted:
        quality.add_counts(record.quality)
        pixels.add_counts(record.pixels)
        recall.add(record.recall[1], record.recall[0])
    whole = quality.result()
    figures = {"pq": whole.pq, "sq": whole.sq, "rq": whole.rq}
    figures |= {f"pq_{name}": quality.result(group).pq for name, group in groups.items()}
    figures |= {"miou": pixels.result(only_in_truth=True), "mask_recall": recall.result()}
    found = {name: round(value, 4) for name, value in figures.items() if value == value}  # NaN is not equal to itself
    return {**found, "images": len(counted)}
