"""Train the tabletop's CLIP against a locked text tower: captioned crops of every category, masked crops of the seen.

Two kinds of samples share a batch:

* *captioned*: a photo framed around one object or one surface, with a caption that names it, as on the web. Captions
  may name unseen categories. No mask is used.
* *masked*: a segment of the segmentation training split (seen categories only) with its mask, which teaches the class
  token to read inside a mask.

A second loop adapts the tower to masks of every category: captioned photos get the masks that the trained generator
proposes for them (`pseudo_masks`), so that no ground-truth mask of an unseen category is ever used.

Without masked samples and the second loop, the tower learns from whole photos alone, as CLIPs of the web do.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Literal

import numpy as np
import torch
import torch.nn.functional as F
from open_clip import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
from pydantic import Field
from pydantic.dataclasses import dataclass as pydantic_dataclass
from torch import Tensor, nn

from ovseg_ros.core.backbones.sentence_clip import ImageTower, build_clip, encode_sentences
from ovseg_ros.core.config import STRICT, Share
from ovseg_ros.core.errors import ConfigError
from ovseg_ros.core.images import normalize
from ovseg_ros.core.presets import preset_folder, two_stage
from ovseg_ros.core.proposals.eomt.network import EoMT
from ovseg_ros.core.sections import SentenceClipSection
from ovseg_ros.core.weights.strict import load_strict
from ovseg_ros.offline.train.crops import CropSource
from ovseg_ros.offline.train.data import RenderedData, open_rendered
from ovseg_ros.offline.train.engine import Run
from ovseg_ros.offline.train.eomt import PresetNetwork, network_of
from ovseg_ros.offline.train.loop import Task, run_loop
from ovseg_ros.offline.train.loop_config import LoopConfig
from ovseg_ros.offline.train.text_jitter import TextJitter, other_words
from ovseg_ros.offline.train.words import Concept, caption, is_true_of
from ovseg_ros.sim import categories


@pydantic_dataclass(frozen=True, slots=True, config=STRICT)
class ClipTraining:
    """A stage that trains the image tower, the temperature and the bias of a preset's CLIP, of kind sentence_clip.

    Attributes:
        preset: says which; also whose mask generator proposes masks, if no stage before trained one.
        captions, masks: views of the captioned and the masked samples; None = no masked samples.
        loop, adaptation: schedules of the two loops; None = no second one.
        masked_share: share of a batch that is masked samples, if there are any.
        stuff_share: share of the samples that show a surface rather than an object.
        adaptation_stuff_share: as `stuff_share`, of the masked samples of the second loop.
        null_share: share of the rows whose true captions are withheld, so that "none of these" is learned.
        adaptation_jitter: how far captions' vectors, 1 long, are moved at most in the second loop (`TextJitter`); 0 =
            not.
    """

    preset: str
    captions: RenderedData
    loop: LoopConfig
    masks: RenderedData | None = None
    adaptation: LoopConfig | None = None
    masked_share: Share = 0.4
    stuff_share: Share = 0.15
    adaptation_stuff_share: Share = 0.35
    null_share: Share = 0.15
    adaptation_jitter: Annotated[float, Field(ge=0, le=10)] = 0.0
    kind: Literal["clip"] = "clip"


@dataclass(frozen=True, slots=True)
class Stream:
    """A part of every batch: where its crops come from and how they are drawn."""

    source: CropSource
    share: float
    stuff_share: float
    masked: bool


@dataclass(eq=False)
class ClipTask(Task):
    """Crops against the captions of their whole batch, which the streams fill one after the other.

    Attributes:
        encode: sentences to unit vectors (T, D), by a frozen text tower.
        known: vectors (D,) of the sentences encoded so far, each once.
        jitter: moves them, anew in every step; None = they stay.
    """

    name: str
    model: ImageTower
    encode: Callable[[Sequence[str]], Tensor]
    known: dict[str, Tensor]
    streams: Sequence[Stream]
    loop: LoopConfig
    null_share: float
    device: torch.device
    jitter: TextJitter | None = None

    def losses(self, step: int, samples: range, counts: Tensor) -> dict[str, Tensor]:
        rng = np.random.default_rng([self.loop.seed, step])
        images, masks, concepts = self._draw(rng)
        texts = list(dict.fromkeys(caption(concept, rng) for concept in concepts))
        truth = torch.tensor([[is_true_of(said, seen) for _, said in texts] for seen in concepts])  # (B, T)
        withheld = torch.from_numpy(rng.random(len(truth)) < self.null_share)
        images, masks, truth, withheld = (
            part[samples.start : samples.stop].to(self.device) for part in (images, masks, truth, withheld)
        )
        if new := [sentence for sentence, _ in texts if sentence not in self.known]:
            self.known.update(zip(new, self.encode(new), strict=True))
        vectors = torch.stack([self.known[sentence] for sentence, _ in texts])  # (T, D)
        if self.jitter is not None:
            vectors = self.jitter(vectors, rng)
        logits = self.model.prompt_logits(self.model.encode_masked(images, masks), vectors)
        return {"contrastive": caption_loss(logits, truth, withheld)}

    def _draw(self, rng: np.random.Generator) -> tuple[Tensor, Tensor, list[Concept]]:
        """A batch: images (B, 3, S, S) normalised, patch masks (B, p, p) bool, and what each shows."""
        crops, masks, concepts = [], [], []
        limits = np.cumsum([stream.share for stream in self.streams]) * self.loop.batch_size
        for index in range(self.loop.batch_size):
            stream = self.streams[int((index >= limits[:-1]).sum())]
            is_stuff = bool(rng.random() < stream.stuff_share)
            crop, mask, concept = stream.source.draw(rng, stuff=is_stuff, masked=stream.masked)
            gain = rng.uniform(0.85, 1.15) * rng.uniform(0.97, 1.03, size=3)
            crops.append(np.clip(crop * (gain / 255), 0, 1).astype(np.float32))
            masks.append(mask)
            concepts.append(concept)
        images = torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2)
        images = normalize(images, OPENAI_DATASET_MEAN, OPENAI_DATASET_STD)
        return images, torch.from_numpy(np.stack(masks)), concepts


def caption_loss(logits: Tensor, truth: Tensor, withheld: Tensor) -> Tensor:
    """Image-to-text contrast with several true captions and an explicit "none of these" at logit 0.

    Every true caption competes with the false ones and with "none"; true captions never compete with each other. Where
    the true captions are withheld, "none" has to win against the false ones.

    Args:
        logits: (B, T), scaled cosines plus bias.
        truth: (B, T) bool.
        withheld: (B,) bool.
    """
    false_terms = logits.masked_fill(truth, float("-inf"))
    none = logits.new_zeros(len(logits), 1)
    rest = torch.cat([false_terms, none], dim=1).logsumexp(dim=1, keepdim=True)  # (B, 1)
    per_caption = F.softplus(rest - logits)  # -log(e^l / (e^l + rest))
    shown = (per_caption * truth).sum(dim=1) / truth.sum(dim=1).clamp(min=1)
    return torch.where(withheld, rest[:, 0], shown).mean()


def clip_of(preset: str) -> SentenceClipSection:
    """What a preset says of the CLIP that is to be trained.

    Raises:
        ConfigError: the preset is missing or malformed, or its CLIP is of another kind.
    """
    section = two_stage(preset).clip
    if not isinstance(section, SentenceClipSection):
        raise ConfigError(
            f"the clip of the preset {preset} is of kind {section.kind}; only sentence_clip can be trained"
        )
    return section


def train_clip(config: ClipTraining, generator: nn.Module | None, run: Run) -> None:
    """Train, going on from the folders `clip` and `clip_adaptation` in --out, and write the checkpoint.

    Args:
        generator: the mask generator whose proposals mask the captioned photos of the second loop, in evaluation mode;
            None = the preset's.

    Raises:
        ConfigError: the preset is missing or malformed, or has a CLIP or a mask generator of another kind.
        CheckpointError, DatasetError: for missing weights and bad data; also if no photo gets a mask.
    """
    section, device = clip_of(config.preset), run.engine.device
    if generator is None and config.adaptation is not None:
        eomt = network_of(PresetNetwork(config.preset))
        generator = EoMT(eomt.architecture).eval().to(device)
        load_strict(generator, preset_folder(config.preset).own(eomt.checkpoint))
    torch.manual_seed(config.loop.seed)
    clip, tokenizer = build_clip(section.architecture)
    clip.text.to(device)
    tower, encode, known = ImageTower(clip), partial(encode_sentences, clip, tokenizer), dict[str, Tensor]()
    photos, seen, share = open_rendered(config.captions, run), None, 0.0
    if config.masks is not None:
        seen, share = CropSource(open_rendered(config.masks, run), section.architecture), config.masked_share

    def learn(
        name: str, loop: LoopConfig, stuff_share: float, photographed: Stream, jitter: TextJitter | None = None
    ) -> None:
        masked = [Stream(seen, share, stuff_share, masked=True)] if seen is not None else []
        task = ClipTask(name, tower, encode, known, [*masked, photographed], loop, config.null_share, device, jitter)
        run.begins()
        run_loop(task, loop, run.out / name.replace(" ", "_"), engine=run.engine)

    whole = Stream(CropSource(photos, section.architecture), 1 - share, config.stuff_share, masked=False)
    learn("clip", config.loop, config.stuff_share, whole)
    if config.adaptation is not None:
        proposed = CropSource(photos, section.architecture, generator)
        inside = Stream(proposed, 1 - share, stuff_share=0.0, masked=True)
        jitter = None
        if config.adaptation_jitter:
            names = [name for word in categories.WORDS.values() for name in word.all_names]
            jitter = TextJitter(encode, other_words(tokenizer.tokenizer.get_vocab(), names), config.adaptation_jitter)
        learn("clip adaptation", config.adaptation, config.adaptation_stuff_share, inside, jitter)
    run.save(section.checkpoint, tower.state_dict())
