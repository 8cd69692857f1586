"""LMSeg's scorer: how well each word fits each pixel of an image. Without a second encoder it is CAT-Seg."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ovseg_ros.core.backbones.dense_clip import check_dense_tower, train_queries_and_values
from ovseg_ros.core.backbones.image_encoder import ImageEncoder
from ovseg_ros.core.engine.part import Part
from ovseg_ros.core.engine.precision import Float32Modules
from ovseg_ros.core.errors import ConfigError
from ovseg_ros.core.images import Canvas, squash
from ovseg_ros.core.scoring.lmseg.aggregation import AggregationLayer
from ovseg_ros.core.scoring.lmseg.config import LMSegConfig
from ovseg_ros.core.scoring.lmseg.decoder import SCALE, Decoder
from ovseg_ros.core.scoring.lmseg.fusion import Fusion
from ovseg_ros.core.scoring.lmseg.parts import Refinement, scorer_parts
from ovseg_ros.core.types import TextEmbeddings
from ovseg_ros.core.vocabulary import Vocabulary
from ovseg_ros.core.weights.strict import load_trained_state, trained_state
from ovseg_ros.core.word_logits import best_prompts

_WORDS_AT_ONCE = 32
"""Decoded outside of training, to bound the memory."""
_STEP = 2 / 3
"""From one window to the next, of a window's side."""
_UNTRAINED = "this preset names no checkpoint, so its scores are noise; train it, and name what the training wrote"
_LEAST = 1e-6
"""Of a mean of probabilities, so that it has a logit."""


@dataclass(frozen=True, slots=True)
class ScoredWords:
    """A vocabulary made ready: K words, which are its categories but for "unknown".

    Attributes:
        vectors: (P, D), unit, one for each name or synonym of a word.
        owner: (P,) int64 in [0, K), its word.
        guidance: (1, K, G) of each word's name.
        categories: (K,) int64, which category of the vocabulary each word is.
    """

    vectors: Tensor
    owner: Tensor
    guidance: Tensor
    categories: Tensor


@dataclass(frozen=True, slots=True)
class Encoded:
    """What the encoders make of B images.

    Attributes:
        clip: (B, D, h, w) of CLIP's patches, in the space shared with text.
        skips: (B, C, h, w) of two of its blocks.
        second: (B, C', any, any) of the second encoder; None where there is none.
    """

    clip: Tensor
    skips: tuple[Tensor, ...]
    second: Tensor | None


@dataclass(frozen=True, slots=True)
class Scores:
    """What fits where.

    Attributes:
        logits: (B, k, h, w), over the whole image; above 0, a word fits.
        words: (B, k) int64 in [0, K), the words that were looked at: all, or of many those with the highest cosines.
        features: (B, D, h', w'), CLIP's with SAM's.
    """

    logits: Tensor
    words: Tensor
    features: Tensor


class LMSegScorer(nn.Module):
    """Cosines of CLIP's and SAM's features with words, refined, and upsampled to logits.

    Attributes:
        visual: CLIP's image tower.
        text: its text tower, if it is trained.
        sam: the second encoder; None for CLIP alone.
        config: as given.
    """

    def __init__(
        self,
        visual: nn.Module,
        text: nn.Module | None,
        sam: ImageEncoder | None,
        config: LMSegConfig,
        *,
        sam_width: int = 0,
        mean: tuple[float, float, float],
        std: tuple[float, float, float],
    ) -> None:
        """Adds what is trained to encoders with their weights.

        Args:
            visual: an open_clip `VisionTransformer`.
            text: CLIP's text tower, of open_clip, whose queries and values are trained; None leaves it as it is.
            sam: what of it is trained, it says itself.
            sam_width: channels of its features.
            mean, std: of CLIP's pixels.

        Raises:
            ConfigError: a tower without patches and a class token, or sizes that do not fit each other.
        """
        super().__init__()
        self.config = config
        self.visual = check_dense_tower(visual, config.skip_layers)
        self.text, self.sam = text, sam
        self._canvas = Canvas(mean, std)
        visual.requires_grad_(False)
        if config.tunes_clip:
            for tower in (self.visual, text):
                if tower is not None:
                    train_queries_and_values(tower)
        grid = _grid(config, self.visual.patch_size)
        clip_width, text_width = self.visual.proj.shape
        with self.visual.proj.device:  # the meta device, to count without allocating
            self.fusion = None if sam is None else Fusion(config.fusion, text_width, sam_width)
            self.embed = nn.Conv2d(1, config.width, kernel_size=7, padding=3)
            self.image_guidance = nn.Conv2d(text_width, config.guidance_width, kernel_size=3, padding=1)
            self.word_guidance = nn.Linear(text_width, config.guidance_width)
            self.layers = nn.ModuleList(AggregationLayer(config, grid) for _ in range(config.layers))
            self.decoder = Decoder(config, clip_width)
        self._in_float32 = Float32Modules(*(part for part in (text, self.word_guidance) if part is not None))
        refinement = Refinement(self.embed, self.image_guidance, self.layers, self.decoder)
        self._parts = scorer_parts(self.visual, sam, self.fusion, refinement, config)

    @property
    def parts(self) -> tuple[Part, ...]:
        """The encoders, their fusion, the refinement under words, and the decoder."""
        return self._parts.present

    @property
    def encoders_learn(self) -> bool:
        """Whether anything of what `encode` runs is trained."""
        encoders = [self.visual] if self.sam is None else [self.visual, self.sam]
        return any(value.requires_grad for encoder in encoders for value in encoder.parameters())

    def remarks(self, vocabulary: Vocabulary, *, is_trained: bool) -> tuple[str, ...]:
        """As of `Prompt`: what is not seen of a vocabulary's words; and whether the scorer has learned anything."""
        remarks = () if is_trained else (_UNTRAINED,)
        count = len(vocabulary.categories) - (vocabulary.unknown_index is not None)
        most = self.config.padded_words
        if most and count > most:
            told = f"of {count} words, this preset looks in each image at the {most} that CLIP finds the likeliest"
            return (*remarks, f"{told}; name fewer if one is missed")
        return remarks

    def prepare(self, text: TextEmbeddings) -> ScoredWords:
        """Which words there are, and what the aggregation reads of them; with gradients where they are enabled."""
        vocabulary, owner, vectors = text.vocabulary, text.category_of_prompt, text.vectors
        categories = torch.arange(len(vocabulary.categories), device=owner.device)
        if vocabulary.unknown_index is not None:
            vectors, owner = vectors[owner != vocabulary.unknown_index], owner[owner != vocabulary.unknown_index]
            categories = categories[categories != vocabulary.unknown_index]
            owner = owner - (owner > vocabulary.unknown_index).long()
        names = torch.searchsorted(owner, torch.arange(len(categories), device=owner.device))  # a name comes first
        return self.words(vectors, owner, names, categories)

    def words(self, vectors: Tensor, owner: Tensor, names: Tensor, categories: Tensor) -> ScoredWords:
        """As `prepare`, of vectors (P, D); `names` (K,) are the rows of the words' names."""
        vectors = vectors.float()
        guidance = F.relu(self.word_guidance(vectors[names]))[None]
        return ScoredWords(vectors, owner, guidance, categories)

    def forward(self, images: Tensor, words: ScoredWords, encoded: Encoded | None = None) -> Scores:
        """Scores of images (B, 3, H, W) in [0, 1], which are scaled to the configured size; `encoded` if they are."""
        encoded = self.encode(images) if encoded is None else encoded
        whole = self.score(encoded, words)
        if self.config.windows and not self.training and len(words.categories):
            return self._with_windows(images, words, whole)
        return whole

    def encode(self, images: Tensor) -> Encoded:
        """All that does not depend on the words, of images as of `forward`."""
        clip, *skips = _run(self._parts.clip, self._canvas(squash(images, self.config.image_size)))
        second = None
        if self.sam is not None and self._parts.second is not None:
            (second,) = _run(self._parts.second, self.sam.pixels(images))
        return Encoded(clip, tuple(skips), second)

    def score(
        self, encoded: Encoded, words: ScoredWords, *, most: int | None = None, required: Tensor | None = None
    ) -> Scores:
        """The rest: (B, k, 4h, 4w).

        Args:
            most: words to look at in each image, in place of `padded_words`.
            required: (B, K) bool, of those first.
        """
        features, batch = encoded.clip, len(encoded.clip)
        if self._parts.fuse is not None and encoded.second is not None:
            (features,) = _run(self._parts.fuse, features, encoded.second)
        most = self.config.padded_words if most is None else most
        cosines, guidance, chosen = self._compared(features, words, most, required)
        if not cosines.shape[1]:  # nothing was asked for but "unknown"
            rows, columns = features.shape[-2:]
            return Scores(cosines.new_zeros(batch, 0, SCALE * rows, SCALE * columns), chosen, features)
        given = (features, *encoded.skips, cosines)
        at_once = cosines.shape[1]
        if torch.is_grad_enabled():  # all words are real, and decoded at once
            cells, *guides = self._parts.refine.module(*given, guidance)
        else:
            cells, *guides = self._parts.refine(*given, guidance.expand(batch, -1, -1), features.new_zeros(at_once))
            at_once = _WORDS_AT_ONCE
        decoded = [_run(self._parts.decode, some, *guides)[0] for some in cells.split(at_once, dim=1)]
        return Scores(torch.cat(decoded, dim=1), chosen, features)

    def _compared(
        self, features: Tensor, words: ScoredWords, most: int, required: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """In float32, cosines (B, k, h, w), guidance (B or 1, k, G) and which words (B, k) are looked at, at most K."""
        count = len(words.categories)
        prompts = torch.einsum("bdyx,pd->byxp", F.normalize(features.float(), dim=1), words.vectors)
        cosines = best_prompts(prompts, words.owner, count).movedim(-1, 1)  # (B, K, h, w)
        batch = len(features)
        if not most or count <= most:
            return cosines, words.guidance, torch.arange(count, device=cosines.device).expand(batch, -1)
        likely = cosines.flatten(2).amax(dim=2)  # (B, K)
        if required is not None:
            likely = likely.masked_fill(required, torch.inf)
        chosen = likely.topk(most, dim=1).indices  # (B, k)
        rows = torch.arange(batch, device=chosen.device)[:, None]
        return cosines[rows, chosen], words.guidance[0][chosen], chosen

    def _with_windows(self, images: Tensor, words: ScoredWords, whole: Scores) -> Scores:
        """The mean of what four overlapping windows and the whole image say, in float32, as CAT-Seg is measured.

        Windows overlap by a third; they are added up at the cells of the scores, not at the image's pixels.
        """
        size = self.config.image_size
        cells = (whole.logits.shape[-2], whole.logits.shape[-1])
        steps = [round(side * _STEP) for side in cells]
        down, across = (round(step * pixels / side) for step, pixels, side in zip(steps, size, cells, strict=True))
        canvas = squash(images, (size[0] + down, size[1] + across))
        total = images.new_zeros(len(images), len(words.categories), cells[0] + steps[0], cells[1] + steps[1])
        count = images.new_zeros(total.shape[-2:])
        for top, y in ((0, 0), (steps[0], down)):
            for left, x in ((0, 0), (steps[1], across)):
                view = self.score(self.encode(canvas[..., y : y + size[0], x : x + size[1]]), words)
                place = (..., slice(top, top + cells[0]), slice(left, left + cells[1]))
                total[place] += _probabilities(view, total.shape[1])
                count[place] += 1
        by_all = F.interpolate(_probabilities(whole, total.shape[1]), total.shape[-2:], mode="bilinear")
        chosen = torch.arange(total.shape[1], device=images.device).expand(len(images), -1)
        return Scores(((total / count + by_all) / 2).logit(eps=_LEAST), chosen, whole.features)

    def trained_state_dict(self) -> dict[str, Tensor]:
        """Everything that trains, and nothing else: what an LMSeg checkpoint holds."""
        return trained_state(self)

    def load_trained_state_dict(self, state: Mapping[str, Tensor], where: Path | str) -> None:
        """Fill what trains from a state with exactly its names and shapes; `where` it is from, for errors.

        Raises:
            CheckpointError: naming what is missing, unexpected or of another shape.
        """
        load_trained_state(self, state, where)


def _run(part: Part, *tensors: Tensor) -> tuple[Tensor, ...]:
    """By its engine; where gradients are asked for by the module, under autocast if that is on."""
    outputs: tuple[Tensor, ...] = part.module(*tensors) if torch.is_grad_enabled() else part(*tensors)
    return outputs


def _probabilities(scores: Scores, count: int) -> Tensor:
    """(B, K, h, w) of all words, in float32; 0 of those that were not looked at."""
    found = scores.logits.float().sigmoid()
    everywhere = scores.words[..., None, None].expand_as(found)
    return found.new_zeros(len(found), count, *found.shape[2:]).scatter(1, everywhere, found)


def _grid(config: LMSegConfig, patch: tuple[int, int]) -> tuple[int, int]:
    """Cells of CLIP; ConfigError unless patches fill the image and windows the cells."""
    (height, width), window = config.image_size, config.window
    if height % patch[0] or width % patch[1]:
        raise ConfigError(
            f"image_size is {[height, width]}; expected multiples of CLIP's patches, {list(patch)} pixels"
        )
    grid = (height // patch[0], width // patch[1])
    side = min(window, *grid)
    if config.spatial and any(cells % side for cells in grid):
        raise ConfigError(
            f"window {window} does not divide the {grid[0]} x {grid[1]} cells of image_size {[height, width]}; choose "
            "one that does"
        )
    if config.pooling > min(grid):
        raise ConfigError(f"pooling {config.pooling} is more than the {min(grid)} cells of a side; choose fewer")
    return grid
