"""FISA: mask tokens on a frozen CLIP name masks, after reading the vocabulary (Chng et al.)."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from open_clip.transformer import VisionTransformer
from torch import Tensor, nn

from ovseg_ros.core.classification.fisa.clip_tower import check_tower, image_key_values
from ovseg_ros.core.classification.fisa.config import FisaConfig
from ovseg_ros.core.classification.fisa.distribution_adapter import DistributionAdapter
from ovseg_ros.core.classification.fisa.mask_tokens import MaskTokenStream
from ovseg_ros.core.classification.fisa.parts import fisa_parts, flat, layers
from ovseg_ros.core.classification.mask_views import (
    both_ways,
    crop_images,
    crop_masks,
    likeliest,
    patches_inside,
    resize_images,
    square_windows,
    view_size,
)
from ovseg_ros.core.engine.part import Part
from ovseg_ros.core.engine.precision import Float32Tensors
from ovseg_ros.core.errors import ConfigError
from ovseg_ros.core.images import Canvas
from ovseg_ros.core.model import Classifier
from ovseg_ros.core.text_attention import KeyValues
from ovseg_ros.core.types import MaskProposals, TextEmbeddings
from ovseg_ros.core.weights.strict import load_trained_state, trained_state
from ovseg_ros.core.word_logits import (
    IMPOSSIBLE,
    best_prompts,
    of_all,
    unit,
    unit_mean,
    with_none,
)


@dataclass(frozen=True, slots=True)
class FisaWords:
    """A vocabulary made ready.

    Attributes:
        text: its vectors.
        key_values: what SEVE reads of them; None where there is no SEVE.
        bias: (P,) zeros, what engines that fill words up fill up too.
    """

    text: TextEmbeddings
    key_values: KeyValues | None
    bias: Tensor


@dataclass(frozen=True, slots=True)
class MaskViews:
    """What CLIP looks at to name M masks each of B images: the whole images (N = B), or a crop for each (N = B M).

    Attributes:
        pixels: (N, 3, S, T) in [0, 1].
        image_size: (height, width) of the images, pixels.
        windows: (N, 4) left, top, right, bottom of the crops in their image; None for whole images.
        key_values: what CLIP makes of the pixels, layer by layer, where that was computed before; it does not depend
            on what FISA learns.
        mirrored: whether that is of the views and, after them, of their mirror images, 2 N in all.
    """

    pixels: Tensor
    image_size: tuple[int, int]
    windows: Tensor | None = None
    key_values: tuple[KeyValues, ...] | None = None
    mirrored: bool = False


class FisaClassifier(Classifier, Float32Tensors):
    """Names masks by CLIP's class token, one for each mask, adapted to masks and to the words in question.

    Untrained, it is MaskCLIP's mask attention: SEVE adds nothing, the adapter changes nothing, and f_q is CLIP's.
    """

    float32_tensors = frozenset({"logit_scale", "logit_bias", "none_embedding"})
    visual: VisionTransformer
    logit_scale: Tensor
    logit_bias: Tensor

    def __init__(
        self,
        visual: nn.Module,
        config: FisaConfig,
        *,
        logit_scale: Tensor,
        logit_bias: Tensor | None = None,
        mean: tuple[float, float, float],
        std: tuple[float, float, float],
    ) -> None:
        """Adds FISA, which trains, to a tower, which is frozen.

        Args:
            visual: an open_clip `VisionTransformer` with its weights loaded (f_q starts as a copy of its own).
            config: which parts there are.
            logit_scale, logit_bias: CLIP's scalars, the scale as its natural logarithm (as open_clip keeps it).
            mean, std: of CLIP's pixels.

        Raises:
            ConfigError: for a tower that cannot carry mask tokens, or a configuration that does not fit it.
        """
        super().__init__()
        tower = check_tower(visual)
        if config.none == "bias" and logit_bias is None:
            raise ConfigError("fisa.none: bias needs a CLIP with a logit bias; use generator or embedding")
        self.config = config
        self.visual = tower.requires_grad_(False)
        with tower.conv1.weight.device:  # the meta device, to count without allocating
            self.stream = MaskTokenStream(tower, config)
            self.adapter = DistributionAdapter(config.adapter_convolutions, config.adapter_width)
            self.pixels = Canvas(mean, std)
            if config.none == "embedding":
                width = tower.proj.shape[1]  # of the space that image and text share
                self.none_embedding = nn.Parameter(torch.randn(width) * width**-0.5)
        scale = logit_scale.detach().clone()
        if config.temperature is not None:
            scale = torch.full_like(scale, config.temperature).reciprocal().log()
        self.register_buffer("logit_scale", scale, persistent=False)
        bias = torch.zeros_like(scale) if logit_bias is None else logit_bias.detach().clone()
        self.register_buffer("logit_bias", bias, persistent=False)
        self.crop_size = view_size(1, 1, config.input_size, tower.patch_size)
        self._image, self._names = fisa_parts(tower, self.stream, self.pixels, crops=config.view == "crops")

    @property
    def parts(self) -> tuple[Part, ...]:
        """CLIP on views, and the mask tokens."""
        return self._image, self._names

    def prepare(self, text: TextEmbeddings) -> FisaWords:
        """SEVE's keys and values of the words. With gradients where they are enabled: training prepares every step."""
        bias = text.vectors.new_zeros(len(text.vectors), dtype=torch.float32)
        return FisaWords(text, self.stream.text_key_values(text.vectors), bias)

    def look(self, pixels: Tensor) -> MaskViews | None:
        """What CLIP makes of whole images, all layers at once; of crops, which need masks, nothing."""
        return self._looked(self._whole(pixels)) if self.config.view == "image" else None

    def forward(
        self,
        images: Tensor,
        proposals: MaskProposals,
        words: FisaWords,
        seen: Any = None,
        least: float = 0.0,
    ) -> Tensor:
        """Open-vocabulary logits (B, Q, K + 1) of every proposal; those not read are "no object".

        Args:
            images: (B, 3, H, W) in [0, 1], the area that the mask logits cover.
            proposals: any; their class logits, where there are, say by their last entry what is "no object".
            words: from `prepare`.
            seen: `MaskViews` with key values: from `look`, or those of the crops of the masks that are read, in order.
            least: as of `Classifier`.
        """
        queries, is_read = self.top_masks(proposals, least)  # (B, M)
        rows = torch.arange(len(queries), device=queries.device)[:, None]
        masks = proposals.mask_logits[rows, queries]  # (B, M, h, w)
        if masks.shape[0] * masks.shape[1] == 0:
            embeddings = self.logit_scale.new_zeros(*masks.shape[:2], self.visual.proj.shape[1])
        else:
            views = self._looked(self.views_of(images, masks)) if seen is None else seen
            embeddings = self._embed_by_parts(views, self.adapter(masks), words)  # (B, M, D)
        return self.join(self.word_logits(embeddings, words), proposals, queries, is_read)

    def top_masks(self, proposals: MaskProposals, least: float = 0.0) -> tuple[Tensor, Tensor]:
        """Queries (B, M) worth reading, the likeliest first, and (B, M) bool: whether each is, or only fills up.

        See `likeliest`, of which `least` is.
        """
        return likeliest(proposals.objectness, self.config.max_masks, self.config.min_objectness, least)

    def views_of(self, images: Tensor, mask_logits: Tensor) -> MaskViews:
        """The views of masks (B, M, h, w), as the proposer made them, of images (B, 3, H, W) in [0, 1]."""
        size = (images.shape[-2], images.shape[-1])
        if self.config.view == "crops":
            windows = square_windows(mask_logits.flatten(0, 1), size, self.config.crop_context)
            owners = torch.arange(len(images), device=images.device).repeat_interleave(mask_logits.shape[1])
            return MaskViews(crop_images(images, windows, owners, self.crop_size), size, windows)
        return self._whole(images)

    def embed(self, views: MaskViews, adapted: Tensor, words: FisaWords) -> Tensor:
        """Unit embeddings (B, M, D) of masks, from `views_of` and from the adapter, (B, M, h, w). Trainings run it.

        One layer after the other, so that nothing is kept of the image but what gradients need. Views whose keys and
        values are given are read as they are; others also mirrored, if the configuration says so.
        """
        batch, count = adapted.shape[:2]
        if batch * count == 0:
            return adapted.new_zeros(batch, count, self.visual.proj.shape[1])
        inside = self._patches_inside(views, adapted)
        given = views.key_values
        embeddings = self._read(self.key_values(views.pixels) if given is None else given, inside, words)
        if self.config.mirrored and given is None:
            other = self._read(self.key_values(views.pixels.flip(-1)), self._mirror(inside, views), words)
            embeddings = unit_mean(embeddings, other)
        return embeddings.reshape(batch, count, -1)

    def key_values(self, pixels: Tensor) -> Iterable[KeyValues]:
        """What mask tokens read of views (N, 3, S, T) in [0, 1], by layer; the image path is CLIP's to the bit."""
        return image_key_values(self.visual, self.pixels(pixels).to(self.visual.conv1.weight.dtype))

    def word_logits(self, embeddings: Tensor, words: FisaWords) -> Tensor:
        """(..., K + 1) of unit embeddings (..., D): the best prompt of every category, then "none of these".

        A category named "unknown" takes the place of "none of these".
        """
        text, scale = words.text, self.logit_scale.exp().float()
        prompts = scale * embeddings @ text.vectors.to(embeddings).T + self.logit_bias  # (..., P)
        best = best_prompts(prompts, text.category_of_prompt, len(text.vocabulary.categories))
        if self.config.none == "embedding":
            none = scale * embeddings @ unit(self.none_embedding) + self.logit_bias
        else:
            none_logit = self.config.none_logit if self.config.none == "bias" else IMPOSSIBLE
            none = best.new_full(best.shape[:-1], none_logit)
        return with_none(best, none, text.vocabulary)

    def join(self, word_logits: Tensor, proposals: MaskProposals, queries: Tensor, is_read: Tensor) -> Tensor:
        """Logits of all proposals (B, Q, K + 1) from those (B, M, K + 1) of the ones that were read (see `top_masks`).

        A mask is nothing if the proposer says so, or else if no word fits it.
        """
        rows = torch.arange(len(queries), device=queries.device)[:, None]
        return of_all(word_logits, proposals.objectness, rows, queries, is_read)

    def trained_state_dict(self) -> dict[str, Tensor]:
        """Everything that trains, and nothing else: what a FISA checkpoint holds."""
        return trained_state(self)

    def load_trained_state_dict(self, state: Mapping[str, Tensor], where: Path | str) -> None:
        """Fill what trains from a state with exactly its names and shapes; `where` it is from, for errors.

        Raises:
            CheckpointError: naming what is missing, unexpected or of another shape.
        """
        load_trained_state(self, state, where)

    def _whole(self, images: Tensor) -> MaskViews:
        size = (images.shape[-2], images.shape[-1])
        return MaskViews(resize_images(images, view_size(*size, self.config.input_size, self.visual.patch_size)), size)

    def _looked(self, views: MaskViews) -> MaskViews:
        """The views with what CLIP makes of them, and of their mirror images if the configuration says so."""
        pixels, mirrored = views.pixels, self.config.mirrored
        read = self._image(both_ways(pixels) if mirrored else pixels)
        return replace(views, key_values=layers(read), mirrored=mirrored)

    def _embed_by_parts(self, views: MaskViews, adapted: Tensor, words: FisaWords) -> Tensor:
        """As `embed`, of views whose keys and values are given."""
        assert views.key_values is not None
        inside = self._patches_inside(views, adapted)
        if views.mirrored:
            inside = torch.cat([inside, self._mirror(inside, views)])
        text = (*words.key_values, words.bias) if words.key_values is not None else ()
        (embeddings,) = self._names(*flat(views.key_values), inside, *text)
        if views.mirrored:
            embeddings = unit_mean(*embeddings.chunk(2))
        return embeddings.reshape(*adapted.shape[:2], -1)

    def _mirror(self, inside: Tensor, views: MaskViews) -> Tensor:
        """What of the mirror images of views is inside, (N, M, P) bool."""
        rows = views.pixels.shape[-2] // self.visual.patch_size[0]
        return inside.unflatten(2, (rows, -1)).flip(-1).flatten(2)

    def _patches_inside(self, views: MaskViews, adapted: Tensor) -> Tensor:
        """Patches (N, 1, P) of crops, or (B, M, P) of whole images, that hold any pixel of their mask (B, M, h, w)."""
        size = (views.pixels.shape[-2], views.pixels.shape[-1])
        if views.windows is not None:
            adapted = crop_masks(adapted.flatten(0, 1), views.windows, views.image_size, size)
        return patches_inside(adapted, size, self.visual.patch_size)

    def _read(self, image: Iterable[KeyValues], inside: Tensor, words: FisaWords) -> Tensor:
        """Unit embeddings (N, M, D) of masks whose patches are `inside` (N, M, P) bool of N views."""
        return unit(self.stream(self.visual, image, inside, words.key_values))
