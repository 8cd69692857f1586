"""Train FISA on the proposals of a preset's mask generator, which stays as it is."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from ovseg_ros.core.build import build_two_stage
from ovseg_ros.core.classification.fisa.classifier import FisaClassifier
from ovseg_ros.core.classification.mask_views import crop_masks
from ovseg_ros.core.config import STRICT, Share
from ovseg_ros.core.errors import ConfigError
from ovseg_ros.core.model import TwoStage
from ovseg_ros.core.presets import (
    fisa_section,
    load_preset,
    preset_folder,
    require_weights,
    two_stage,
)
from ovseg_ros.core.segmenter import PanopticSegmenter
from ovseg_ros.core.weights.files import find_weights, read_weights
from ovseg_ros.offline.train.augmentation import AugmentationConfig, view_sizes
from ovseg_ros.offline.train.begin import begun_with
from ovseg_ros.offline.train.data import DataConfig, PanopticData, open_data, require_instances, require_seen
from ovseg_ros.offline.train.engine import Engine, Run
from ovseg_ros.offline.train.fisa_data import (
    CROPS_SHOWN,
    CollectedMasks,
    JitteredViews,
    MaskBatch,
    collect_masks,
    with_key_values,
)
from ovseg_ros.offline.train.fisa_losses import FisaLossConfig, fisa_losses
from ovseg_ros.offline.train.loop import Task, run_loop
from ovseg_ros.offline.train.loop_config import LoopConfig
from ovseg_ros.offline.train.pictures import compare_names
from ovseg_ros.offline.train.proposed_views import MASK_STRIDE
from ovseg_ros.offline.train.validation import Validation, ValidationConfig, open_validation
from ovseg_ros.offline.train.words import SeenWords

MaskSource = JitteredViews | CollectedMasks

_NONE = "none of these"
_CROP_SCALE = 3
"""How much pictures enlarge crops, so that names are legible."""


@dataclass(frozen=True, slots=True, config=STRICT)
class FisaTraining:
    """A stage that trains the FISA of a preset.

    Attributes:
        preset: says which mask generator and which CLIP, and names the file of the result in --out.
        data: of kind panoptic, a sample is a view; of kind rendered, a mask with its crop or, where CLIP looks at whole
            images, one with all its masks. What CLIP makes of crop or image is then computed once.
        loop, loss: how long, by what measure.
        augmentation: the views, of kind panoptic only.
        synonyms: of kind rendered only: share of the words that a step calls by a training synonym.
        begins_with: "untrained"; "trained", the preset's own `classifier.checkpoint`; or a FISA's file, a state of its
            training, the folder of its run, or another preset.
        validation: when and on what to measure what would be used; None = never.
    """

    preset: str
    data: DataConfig
    loop: LoopConfig
    loss: FisaLossConfig = Field(default_factory=FisaLossConfig)
    augmentation: AugmentationConfig | None = None
    synonyms: Share = 0.0
    begins_with: Annotated[str, Field(min_length=1)] = "untrained"
    validation: ValidationConfig | None = None
    kind: Literal["fisa"] = "fisa"

    def __post_init__(self) -> None:
        is_panoptic = isinstance(self.data, PanopticData)
        require_instances(self.data)
        require_seen(self.data)
        if is_panoptic != (self.augmentation is not None) or (is_panoptic and self.synonyms):
            advice = ["write synonyms: 0"] if is_panoptic and self.synonyms else []
            if is_panoptic and self.augmentation is None:
                advice.append("add augmentation: {kind: jitter, size: [HEIGHT, WIDTH]}")
            rule = "data of kind panoptic needs augmentation and takes no synonyms; of kind rendered, no augmentation"
            raise ValueError("; ".join([rule, *advice]))
        for size in view_sizes(self.augmentation) if self.augmentation is not None else ():
            if any(side % MASK_STRIDE for side in size):
                raise ValueError(f"views of size {size} must be multiples of the masks' stride {MASK_STRIDE}")


class FisaTask(Task):
    """Names for proposals that fit a segment, and masks closer to it."""

    model: FisaClassifier

    def __init__(
        self,
        classifier: FisaClassifier,
        source: MaskSource,
        loss: FisaLossConfig,
        name: str,
        system: PanopticSegmenter | None = None,
    ) -> None:
        self.name, self.model = name, classifier
        self._source, self._loss, self._system = source, loss, system

    def counts(self, step: int, samples: range) -> Tensor:
        return self._source.counts(step, samples)

    def losses(self, step: int, samples: range, counts: Tensor) -> dict[str, Tensor]:
        batch = self._source.batch(step, samples)
        logits, adapted = self._classify(batch)
        masks, others = (counts.sum(dim=0) * (len(samples) / len(counts))).tolist()
        self._source.require_fits(step, len(counts), masks)
        return fisa_losses(logits, batch.categories, adapted, batch.truth, self._loss, masks=masks, others=others)

    def pictures(self) -> dict[str, np.ndarray]:
        rows: list[np.ndarray] = []
        for batch in self._source.shown():
            logits, adapted = self._classify(batch)
            names = [*(category.name for category in batch.text.vocabulary.categories), _NONE]
            wanted, found = ([names[index] for index in chosen] for chosen in (batch.categories, logits.argmax(dim=-1)))
            views, pixels = batch.views, (batch.views.pixels * 255).round().byte()
            if views.windows is None:
                rows.append(compare_names(pixels[0], adapted, wanted, found))
                continue
            shown = batch.is_mask.flatten()
            masks = crop_masks(adapted, views.windows[shown], views.image_size, self.model.crop_size)  # (N, 1, s, s)
            rows += [
                compare_names(crop, mask, [right], [given], scale=_CROP_SCALE)
                for crop, mask, right, given in zip(pixels[shown], masks, wanted, found, strict=True)
            ][:CROPS_SHOWN]
        return {"names": np.concatenate(rows)} if rows else {}

    def system(self) -> PanopticSegmenter:
        return self._system or super().system()

    def result(self) -> dict[str, Tensor]:
        return self.model.trained_state_dict()

    def _classify(self, batch: MaskBatch) -> tuple[Tensor, Tensor]:
        """Word logits (N, K + 1) and adapted masks (N, h, w)."""
        adapted = self.model.adapter(batch.masks)  # (B, M, h, w)
        words = self.model.prepare(batch.text)
        embeddings = self.model.embed(batch.views, adapted, words)[batch.is_mask]  # (N, D)
        return self.model.word_logits(embeddings, words), adapted[batch.is_mask]


def train_fisa(config: FisaTraining, run: Run) -> None:
    """Train, going on from the folder `fisa` in --out, and write what trained under the name that the preset has.

    Raises:
        ConfigError: the preset is malformed, has no FISA or no name for its checkpoint, or does not fit the data.
        CheckpointError, DatasetError: for missing or ill-fitting weights and bad data.
    """
    checkpoint, validation = checkpoint_of(config.preset), open_validation(config.validation, config.data, run)
    dataset, loop, loss = open_data(config.data, run), config.loop, config.loss
    model, classifier = build_untrained(config.preset, run.engine.device, loop.seed)
    if (path := begun_fisa(config.preset, config.begins_with)) is not None:
        classifier.load_trained_state_dict(read_weights(find_weights(str(path))), path)
    source: MaskSource
    if isinstance(config.data, PanopticData) and config.augmentation is not None:
        source = JitteredViews(model, classifier, dataset, config.data, config.augmentation, loop, loss, run)
    else:
        words = SeenWords(model.text_encoder, config.synonyms)
        masks = collect_masks(model, classifier, dataset, words, loss)
        source = CollectedMasks(replace(masks, views=with_key_values(classifier, masks.views)), words, loop)
    whole = TwoStage(model.proposer, classifier, model.text_encoder.anew(), model.input_size)
    system = PanopticSegmenter(whole, load_preset(config.preset).merge, run.engine.device)
    task = FisaTask(classifier, source, loss, "fisa", system)
    try:
        run.begins()
        learn(task, loop, run.out / "fisa", run.engine, validation)
    finally:
        source.close()
    run.save(checkpoint, task.result())


def checkpoint_of(preset: str) -> str:
    """What a preset calls its FISA's file; ConfigError if it has no FISA or no name for it."""
    checkpoint = fisa_section(preset).checkpoint
    if checkpoint is None:
        raise ConfigError(f"the preset {preset} names no classifier.checkpoint; name there what to write")
    return checkpoint


def begun_fisa(preset: str, begins_with: str) -> Path | None:
    """The trained FISA that a training begins with; None for an untrained one."""
    return begun_with(preset, begins_with, "untrained", checkpoint_of)


def learn(task: FisaTask, loop: LoopConfig, folder: Path, engine: Engine, validation: Validation | None = None) -> None:
    """Train in place, going on from the state in `folder`; a classifier without anything to train stays as it is."""
    if task.result():
        run_loop(task, loop, folder, engine=engine, validation=validation)


def build_untrained(preset: str, device: torch.device, seed: int) -> tuple[TwoStage, FisaClassifier]:
    """A preset's model on a device, in evaluation mode, and in it its FISA, whose checkpoint need not exist.

    Errors as of `train_fisa`.
    """
    config, untrained = load_preset(preset), replace(fisa_section(preset), checkpoint=None)
    require_weights(preset, config)
    section = replace(two_stage(preset), classifier=untrained)
    model = build_two_stage(section, preset_folder(preset), device, seed=seed).to(device).eval()
    if not isinstance(model.classifier, FisaClassifier):
        raise ConfigError(f"the preset {preset} made a {type(model.classifier).__name__} of its section of kind fisa")
    return model, model.classifier
