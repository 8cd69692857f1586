"""Train FISA on the tabletop: masks of the frozen generator, seen categories only, by a CLIP that knows all words."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from ovseg_ros.core.classification.fisa.classifier import FisaClassifier
from ovseg_ros.core.classification.fisa.mask_views import crop_masks
from ovseg_ros.core.errors import ConfigError
from ovseg_ros.core.text import TextEncoder
from ovseg_ros.core.types import TextEmbeddings
from ovseg_ros.core.vocabulary import CategorySpec, Vocabulary
from ovseg_ros.core.weights.strict import save_state_half
from ovseg_ros.offline.data.tabletop_views import load_or_render
from ovseg_ros.offline.train.engine import Engine
from ovseg_ros.offline.train.fisa_losses import FisaLossConfig, fisa_losses
from ovseg_ros.offline.train.fisa_parts import load_parts
from ovseg_ros.offline.train.fisa_samples import TrainingSamples, remember, training_samples
from ovseg_ros.offline.train.loop import run_loop
from ovseg_ros.offline.train.loop_config import LoopConfig
from ovseg_ros.offline.train.pictures import NONE_OF_THESE, compare_names
from ovseg_ros.sim import categories

_CROPS_SHOWN = 6
_CROP_SCALE = 3
"""How much pictures enlarge crops, so that names are legible."""


@dataclass(frozen=True, slots=True)
class FisaTrainingConfig:
    """A tabletop training of FISA on frozen proposals.

    Attributes:
        loop: schedule; a sample is a mask.
        scenes, views: training data, `views` poses of each of the first `scenes` scenes of split `train`.
        loss: terms and assignment.
        synonyms: share of the words that a step calls by a training synonym instead of their name.
    """

    loop: LoopConfig
    scenes: int
    views: int
    loss: FisaLossConfig = field(default_factory=FisaLossConfig)
    synonyms: float = 0.5


def collect(
    classifier: FisaClassifier, generator: nn.Module, config: FisaTrainingConfig, data: Path
) -> TrainingSamples:
    """Everything there is to learn from; crops are remembered if CLIP stays as it is."""
    views = load_or_render(data, "train", scenes=config.scenes, views=config.views)
    samples = training_samples(
        classifier,
        generator,
        views,
        min_iou=config.loss.min_iou,
        keep_unmatched=config.loss.none_weight > 0,
    )
    if classifier.config.clip_training != "frozen":
        return samples
    return replace(samples, masks=remember(classifier, samples.masks))


def train_fisa_tabletop(preset: str, config: FisaTrainingConfig, data: Path, out: Path, *, engine: Engine) -> str:
    """Train a preset's FISA, going on from the folder `fisa` in `out`, and write what trained to `out`.

    Returns:
        The name of the file, which the preset calls `fisa_checkpoint`.

    Raises:
        ConfigError: the preset has no trained mask generator, CLIP or `fisa` section, or names no FISA checkpoint.
    """
    parts = load_parts(preset)
    name = parts.preset.fisa_checkpoint
    if name is None:
        raise ConfigError(f"the preset {preset} names no fisa_checkpoint; say there what the result is called")
    torch.manual_seed(config.loop.seed)
    classifier = parts.classifier()
    samples = collect(classifier, parts.generator, config, data)
    train_fisa(classifier, parts.text_encoder, samples, config, out / "fisa", engine=engine)
    if engine.is_main:
        save_state_half(classifier.trained_state_dict(), out / name)
    return name


def train_fisa(
    classifier: FisaClassifier,
    text_encoder: TextEncoder,
    samples: TrainingSamples,
    config: FisaTrainingConfig,
    folder: Path,
    *,
    engine: Engine,
) -> None:
    """Train in place, going on from the state in `folder`. What `trained_state_dict` names is the result.

    The target tokens of SEVE are the whole training vocabulary, which is the seen categories; no step sees another
    word. A classifier without anything to train is left as it is.
    """
    if not classifier.trained_state_dict():
        return
    masks = samples.masks
    words = SeenWords(text_encoder, config.synonyms)
    wanted = torch.tensor([words.index_of(name) for name in samples.categories])

    def drawn_at(step: int) -> tuple[Tensor, TextEmbeddings]:
        """Which masks (N,) this process shows in a step, and the words of all."""
        rng = np.random.default_rng([config.loop.seed, step])
        drawn = torch.from_numpy(rng.integers(len(masks), size=config.loop.batch_size))
        shown = engine.samples(config.loop.batch_size)
        return drawn[shown.start : shown.stop], words.draw(rng)

    def classify(chosen: Tensor, text: TextEmbeddings) -> tuple[Tensor, Tensor]:
        """Word logits (N, K + 1) and adapted masks (N, h, w)."""
        adapted = classifier.adapter(masks.mask_logits[chosen].float()[None])[0]
        inside = classifier.inside_crops(adapted.detach(), masks.windows[chosen], masks.image_size)
        memory = masks.read(classifier, chosen)
        embeddings = classifier.read(memory, inside, classifier.remember_text(text))[:, 0]  # (N, D)
        return classifier.word_logits(embeddings, text), adapted

    def losses_at(step: int) -> dict[str, Tensor]:
        chosen, text = drawn_at(step)
        logits, adapted = classify(chosen, text)
        return fisa_losses(logits, wanted[chosen], adapted, samples.truth[chosen], config.loss)

    def pictures_at(step: int) -> dict[str, np.ndarray]:
        chosen, text = drawn_at(step)
        chosen = chosen[:_CROPS_SHOWN]
        logits, adapted = classify(chosen, text)
        cropped = crop_masks(adapted, masks.windows[chosen], masks.image_size, classifier.crop_size)  # (N, 1, s, s)
        names = [*(category.name for category in text.vocabulary.categories), NONE_OF_THESE]
        rows = [
            compare_names((crop * 255).byte(), mask, [names[right]], [names[given]], scale=_CROP_SCALE)
            for crop, mask, right, given in zip(
                masks.crops[chosen].float(), cropped, wanted[chosen], logits.argmax(dim=-1), strict=True
            )
        ]
        return {"names": np.concatenate(rows)}

    run_loop(classifier, losses_at, config.loop, folder, name=folder.name, engine=engine, pictures_at=pictures_at)


class SeenWords:
    """The training vocabulary: the seen categories, under names that change from step to step."""

    def __init__(self, text_encoder: TextEncoder, synonyms: float) -> None:
        """`synonyms`: share of the words that are replaced by a training synonym, in [0, 1]."""
        self._encoder = text_encoder
        self._synonyms = synonyms
        self._specs = [spec for spec in categories.TABLETOP_SPECS if spec.name in categories.SEEN]
        self._places = {spec.name: place for place, spec in enumerate(self._specs)}
        self._words = {word.name: word for word in (*categories.SHAPES, *categories.COLORS, *categories.STUFF)}

    def index_of(self, name: str | None) -> int:
        """A category's place in the vocabulary; one past the last for None."""
        return len(self._specs) if name is None else self._places[name]

    def draw(self, rng: np.random.Generator) -> TextEmbeddings:
        """The vocabulary of a step; no gradients flow into it."""
        names = {word: self._name_of(word, rng) for word in self._words}
        phrases = [self._phrase(spec, names) for spec in self._specs]
        vocabulary = Vocabulary.build(
            [replace(spec, name=name) for spec, name in zip(self._specs, phrases, strict=True)]
        )
        text = self._encoder.encode(vocabulary)
        return replace(text, vectors=text.vectors.clone())  # out of inference mode

    def _name_of(self, word: str, rng: np.random.Generator) -> str:
        synonyms: Sequence[str] = self._words[word].synonyms
        replaced = rng.random() < self._synonyms
        return str(rng.choice(synonyms)) if replaced and synonyms else word

    def _phrase(self, spec: CategorySpec, names: dict[str, str]) -> str:
        if not spec.is_thing:
            return names[spec.name]
        color, shape = categories.split_pair(spec.name)
        return categories.pair_name(names[color], names[shape])
