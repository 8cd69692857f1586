"""FISA: mask tokens on a frozen CLIP name masks, after reading the vocabulary (Chng et al.)."""

from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
import torch.nn.functional as F
from open_clip.transformer import VisionTransformer
from torch import Tensor, nn

from ovseg_ros.core.classification.crop_windows import square_windows
from ovseg_ros.core.classification.fisa.clip_tower import LayerMemory, check_tower, remember_image
from ovseg_ros.core.classification.fisa.config import FisaConfig
from ovseg_ros.core.classification.fisa.distribution_adapter import DistributionAdapter
from ovseg_ros.core.classification.fisa.lora import add_low_rank
from ovseg_ros.core.classification.fisa.mask_tokens import MaskTokenStream
from ovseg_ros.core.classification.fisa.mask_views import (
    crop_images,
    crop_masks,
    patches_inside,
    resize_images,
    view_size,
)
from ovseg_ros.core.classification.fisa.seve import TextMemory
from ovseg_ros.core.classification.word_logits import IMPOSSIBLE, best_prompts, joined_with_objectness, with_none
from ovseg_ros.core.errors import ConfigError
from ovseg_ros.core.images import normalize
from ovseg_ros.core.types import MaskClassification, MaskProposals, TextEmbeddings
from ovseg_ros.core.weights.strict import check_fit

_REMEMBERED_VOCABULARIES = 4
"""Vocabularies whose text keys and values are kept: the one in use, the next one, and those of queries."""


class FisaClassifier(nn.Module):
    """Names masks by CLIP's class token, one for each mask, adapted to masks and to the words in question.

    Untrained, it is MaskCLIP's mask attention: SEVE adds nothing, the adapter changes nothing, and f_q is CLIP's.
    """

    visual: VisionTransformer
    logit_scale: Tensor
    logit_bias: Tensor

    def __init__(
        self,
        visual: nn.Module,
        config: FisaConfig,
        *,
        text_width: int,
        logit_scale: Tensor,
        logit_bias: Tensor | None = None,
        mean: tuple[float, float, float],
        std: tuple[float, float, float],
    ) -> None:
        """Adds FISA to a tower and decides what trains; everything else is frozen.

        Args:
            visual: an open_clip `VisionTransformer` with its weights loaded (f_q starts as a copy of its own). With
                `clip_training` other than "frozen", it is changed in place.
            config: which parts there are.
            text_width: D of the text vectors, which is the shared space's.
            logit_scale, logit_bias: CLIP's scalars, the scale as its natural logarithm (as open_clip keeps it).
            mean, std: of CLIP's pixels.

        Raises:
            ConfigError: for a tower that cannot carry mask tokens, or a configuration that does not fit it.
        """
        super().__init__()
        check_tower(visual)
        tower: VisionTransformer = visual
        width_of_tower = tower.proj.shape[1]
        if text_width != width_of_tower:
            raise ConfigError(
                f"text vectors have {text_width} numbers, but the image tower's space has {width_of_tower}: "
                "text and image tower must be of one CLIP"
            )
        if config.none == "bias" and logit_bias is None:
            raise ConfigError("fisa.none: bias needs a CLIP with a logit bias; use generator or embedding")
        self.config = config
        self.visual = visual.requires_grad_(config.clip_training == "full")
        if config.clip_training == "lora":
            add_low_rank(visual, config.lora_rank)
        with tower.conv1.weight.device:  # the meta device, to count without allocating
            self.stream = MaskTokenStream(visual, text_width, config)
            self.adapter = DistributionAdapter(config.adapter_convolutions, config.adapter_width)
            if config.none == "embedding":
                self.none_embedding = nn.Parameter(torch.randn(text_width) * text_width**-0.5)
        scale = logit_scale.detach().clone()
        if config.temperature is not None:
            scale = torch.full_like(scale, config.temperature).reciprocal().log()
        self.register_buffer("logit_scale", scale, persistent=False)
        bias = torch.zeros_like(scale) if logit_bias is None else logit_bias.detach().clone()
        self.register_buffer("logit_bias", bias, persistent=False)
        self._mean, self._std = mean, std
        self.crop_size = view_size(1, 1, config.input_size, tower.patch_size)
        self._text_memories: OrderedDict[int, tuple[TextEmbeddings, tuple[TextMemory, ...]]] = OrderedDict()

    def forward(self, images: Tensor, proposals: MaskProposals, text: TextEmbeddings) -> MaskClassification:
        """Open-vocabulary logits of every proposal; those not read are "no object".

        Args:
            images: (B, 3, H, W) in [0, 1], the area that the mask logits cover.
            proposals: any; their class logits, where there are, say by their last entry what is "no object".
            text: of the vocabulary.
        """
        queries, is_read = self.choose(proposals)  # (B, M)
        rows = torch.arange(len(queries), device=queries.device)[:, None]
        embeddings = self.embed(images, proposals.mask_logits[rows, queries], text)  # (B, M, D)
        return self.classify(embeddings, proposals, queries, is_read, text)

    def classify(
        self, embeddings: Tensor, proposals: MaskProposals, queries: Tensor, is_read: Tensor, text: TextEmbeddings
    ) -> MaskClassification:
        """Logits of all proposals (B, Q), given unit embeddings (B, M, D) of those chosen (see `choose`).

        A mask is nothing if the generator says so, or else if no word fits it.
        """
        objectness = _objectness(proposals)  # (B, Q)
        rows = torch.arange(len(queries), device=queries.device)[:, None]
        known = joined_with_objectness(self.word_logits(embeddings, text), objectness[rows, queries])  # (B, M, K + 1)
        unread = known.new_full((known.shape[-1],), IMPOSSIBLE)
        unread[-1] = 0.0
        logits = unread.repeat(*objectness.shape, 1)  # (B, Q, K + 1)
        logits[rows, queries] = torch.where(is_read[..., None], known, unread)
        return MaskClassification(logits)

    def choose(self, proposals: MaskProposals) -> tuple[Tensor, Tensor]:
        """Queries (B, M) worth reading, the likeliest first, and (B, M) bool: whether each is, or only fills up."""
        objectness = _objectness(proposals)  # (B, Q)
        scores, queries = objectness.topk(min(self.config.max_masks, objectness.shape[1]), dim=1)
        is_read = scores >= self.config.min_objectness
        if self.config.min_objectness > 0 and is_read.numel():
            most = int(is_read.sum(dim=1).max())
            queries, is_read = queries[:, :most], is_read[:, :most]
        return queries, is_read

    def embed(self, images: Tensor, mask_logits: Tensor, text: TextEmbeddings) -> Tensor:
        """Unit embeddings (B, M, D) of masks (B, M, h, w) of images (B, 3, H, W) in [0, 1]."""
        return self.embed_adapted(images, mask_logits, self.adapter(mask_logits), text)

    def embed_adapted(self, images: Tensor, mask_logits: Tensor, adapted: Tensor, text: TextEmbeddings) -> Tensor:
        """As `embed`, given what the adapter makes of the masks: for training, whose losses need it too."""
        batch, count = mask_logits.shape[:2]
        if batch * count == 0:
            return images.new_zeros(batch, count, self.visual.proj.shape[1])
        if self.config.view == "crops":
            windows = self.windows(mask_logits, images.shape[-2:])
            owners = torch.arange(batch, device=images.device).repeat_interleave(count)
            pixels = crop_images(images, windows, owners, self.crop_size)
            inside = self.inside_crops(adapted.flatten(0, 1), windows, images.shape[-2:])  # (B * M, 1, P)
        else:
            patch = self.visual.patch_size
            pixels = resize_images(images, view_size(images.shape[-2], images.shape[-1], self.config.input_size, patch))
            inside = patches_inside(adapted, (pixels.shape[-2], pixels.shape[-1]), patch)  # (B, M, P)
        memory = self.remember_text(text)
        embeddings = self.read(self.remember_views(pixels), inside, memory)
        if self.config.mirrored:
            rows = pixels.shape[-2] // self.visual.patch_size[0]
            mirrored = inside.unflatten(2, (rows, -1)).flip(-1).flatten(2)
            other = self.read(self.remember_views(pixels.flip(-1)), mirrored, memory)
            embeddings = F.normalize(embeddings + other, dim=-1)
        return embeddings.reshape(batch, count, -1)

    def windows(self, mask_logits: Tensor, size: Sequence[int]) -> Tensor:
        """What crops show of an image of `size` (height, width): (B M, 4), by the masks as the generator made them."""
        return square_windows(mask_logits.flatten(0, 1), (size[0], size[1]), self.config.crop_context)

    def inside_crops(self, adapted: Tensor, windows: Tensor, size: Sequence[int]) -> Tensor:
        """Patches (N, 1, P) bool of crops that hold any pixel of their adapted mask (N, h, w)."""
        cropped = crop_masks(adapted, windows, (size[0], size[1]), self.crop_size)
        return patches_inside(cropped, self.crop_size, self.visual.patch_size)

    def remember_views(self, images: Tensor) -> Iterable[LayerMemory]:
        """What mask tokens read of views (N, 3, S, T) in [0, 1], by layer; the image path is CLIP's to the bit."""
        pixels = normalize(images, self._mean, self._std).to(self.visual.conv1.weight.dtype)
        return remember_image(self.visual, pixels)

    def read(self, image: Iterable[LayerMemory], inside: Tensor, text: Sequence[TextMemory]) -> Tensor:
        """Unit embeddings (N, M, D) of masks whose patches are `inside` (N, M, P) bool of N views."""
        return F.normalize(self.stream(self.visual, image, inside, text).float(), dim=-1)

    def remember_text(self, text: TextEmbeddings) -> tuple[TextMemory, ...]:
        """SEVE's text keys and values: computed once for each `TextEmbeddings` object, unless gradients are wanted."""
        if torch.is_grad_enabled():
            return self.stream.remember_text(text.vectors)
        known = self._text_memories.get(id(text))
        if known is None or known[0] is not text:
            known = (text, self.stream.remember_text(text.vectors))
            self._text_memories[id(text)] = known
            while len(self._text_memories) > _REMEMBERED_VOCABULARIES:
                self._text_memories.popitem(last=False)
        self._text_memories.move_to_end(id(text))
        return known[1]

    def word_logits(self, embeddings: Tensor, text: TextEmbeddings) -> Tensor:
        """(..., K + 1) of unit embeddings (..., D): the best prompt of every category, then "none of these".

        A category named "unknown" takes the place of "none of these".
        """
        scale = self.logit_scale.exp().float()
        prompts = scale * embeddings @ text.vectors.to(embeddings).T + self.logit_bias  # (..., P)
        best = best_prompts(prompts, text.category_of_prompt, len(text.vocabulary.categories))
        if self.config.none == "embedding":
            none = scale * embeddings @ F.normalize(self.none_embedding.float(), dim=-1) + self.logit_bias
        else:
            none_logit = self.config.none_logit if self.config.none == "bias" else IMPOSSIBLE
            none = best.new_full(best.shape[:-1], none_logit)
        return with_none(best, none, text.vocabulary)

    def trained_state_dict(self) -> dict[str, Tensor]:
        """Everything that trains, and nothing else: what a FISA checkpoint holds."""
        return {name: value.detach() for name, value in self.named_parameters() if value.requires_grad}

    def load_trained_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Fill what trains from a state with exactly its names and shapes.

        Raises:
            CheckpointError: naming what is missing, unexpected or of another shape.
        """
        wanted = {name: value for name, value in self.named_parameters() if value.requires_grad}
        check_fit(wanted, state, "the FISA checkpoint")
        with torch.no_grad():
            for name, value in wanted.items():
                value.copy_(state[name])
        self._text_memories.clear()

    def train(self, mode: bool = True) -> "FisaClassifier":
        """As in `nn.Module`; forgets text keys and values, which training changes."""
        self._text_memories.clear()
        return super().train(mode)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "FisaClassifier":
        self._text_memories.clear()  # they would stay on the device, or in the precision, that the weights leave
        return super()._apply(fn, recurse)


def _objectness(proposals: MaskProposals) -> Tensor:
    """(B, Q): probability of being any segment; 1 where the generator does not say."""
    if proposals.class_logits is None:
        return proposals.mask_logits.new_ones(proposals.mask_logits.shape[:2])
    return 1 - proposals.class_logits.softmax(dim=-1)[..., -1]
