"""Mask2Former (Cheng et al., CVPR 2022) as transformers has it, behind the types of this package.

FISA's own masks come from it (Swin-B; Swin-T and ResNet-50 in its Table 4).
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import Mask2FormerForUniversalSegmentation
from transformers.models.mask2former.modeling_mask2former import Mask2FormerModelOutput

from ovseg_ros.core.backbones.pixel_decoder import PixelDecoder
from ovseg_ros.core.errors import CheckpointError
from ovseg_ros.core.proposals.closed_set import class_names
from ovseg_ros.core.proposals.mask_network import MaskNetwork
from ovseg_ros.core.proposals.prompt_guidance import GuidingWords, PromptGuidance
from ovseg_ros.core.text_attention import in_heads, joined_heads
from ovseg_ros.core.types import MaskProposals, QueryPrediction
from ovseg_ros.core.weights.files import find_weights
from ovseg_ros.core.weights.strict import list_faults

_STRIDE = 4  # pixels of the image along a pixel of the mask logits
_ALIGNMENT = 32  # the deepest features' stride


class LoadedMask2Former(NamedTuple):
    """A published checkpoint in evaluation mode on the CPU, and what its class logits mean."""

    model: "Mask2Former"
    class_names: tuple[str, ...]


class Mask2Former(MaskNetwork):
    """Wraps the library's network. Words, where they guide, are read before each masked cross-attention.

    The library's layers know nothing of words. For the time of a call, and no longer, hooks on their cross-attentions
    let the queries read first; so the network's names of tensors stay those of the public files.
    """

    def __init__(self, network: Mask2FormerForUniversalSegmentation) -> None:
        """Takes over `network`, whose pixel decoder is replaced by one that waits for nothing."""
        super().__init__()
        self.network = network
        level = network.model.pixel_level_module
        level.decoder = PixelDecoder(level.decoder)

    def forward(self, images: Tensor, words: GuidingWords | None = None) -> MaskProposals:
        """Mask proposals.

        Args:
            images: (B, 3, H, W) float, normalised by ImageNet's statistics; H and W are multiples of 4. Padded to
                multiples of 32 at the right and bottom with the mean colour, as in training.
            words: from `guidance.prepare`, if there is guidance.

        Returns:
            `mask_logits` (B, Q, H / 4, W / 4); `query_embeddings` are the last decoder layer's, before its norm.

        Raises:
            ValueError: H or W is no multiple of 4: masks and image could not be aligned. Or there is guidance, but no
                words.
        """
        outputs = self._run(images, words)
        final = self._predict(outputs, -1, images, words)
        return MaskProposals(
            mask_logits=final.mask_logits,
            query_embeddings=outputs.transformer_decoder_last_hidden_state,
            class_logits=final.class_logits,
            word_logits=final.word_logits,
        )

    def forward_layers(self, images: Tensor, words: GuidingWords | None = None) -> list[QueryPrediction]:
        """What the heads say of the learned queries X0 and after each layer, the final one last; as in `forward`."""
        outputs = self._run(images, words)
        return [self._predict(outputs, layer, images, words) for layer in range(len(outputs.masks_queries_logits))]

    @property
    def guided_layers(self) -> tuple[int, int]:
        """The decoder's layers, and the width of its queries."""
        return len(self.network.model.transformer_module.decoder.layers), self.network.config.hidden_dim

    @property
    def patch_size(self) -> int:
        """Of the masks; sides that are no multiples of the deepest features' stride are padded."""
        return _STRIDE

    def mask_size(self, height: int, width: int) -> tuple[int, int]:
        """A quarter."""
        return height // _STRIDE, width // _STRIDE

    def _run(self, images: Tensor, words: GuidingWords | None) -> Mask2FormerModelOutput:
        """What the library's layers make of images, each layer's hidden states and masks included."""
        self._require_words(words)
        height, width = images.shape[-2:]
        if height % _STRIDE or width % _STRIDE:
            raise ValueError(f"Mask2Former takes images of multiples of {_STRIDE} pixels, got {height} x {width}")
        padded = F.pad(images, (0, -width % _ALIGNMENT, 0, -height % _ALIGNMENT))
        inputs = {"pixel_values": padded, "pixel_mask": padded[:, 0]}  # not read, but without it one is made
        if self.guidance is None or words is None:
            return self.network.model(**inputs, output_hidden_states=True)
        with self._guided(self.guidance, words):
            return self.network.model(**inputs, output_hidden_states=True)

    def _predict(
        self, outputs: Mask2FormerModelOutput, layer: int, images: Tensor, words: GuidingWords | None
    ) -> QueryPrediction:
        """The heads after a layer, 0 being before the first, on its normalised hidden states; masks cut to images."""
        height, width = images.shape[-2:]
        queries = outputs.transformer_decoder_intermediate_states[layer].transpose(0, 1)  # (B, Q, C)
        return QueryPrediction(
            mask_logits=outputs.masks_queries_logits[layer][..., : height // _STRIDE, : width // _STRIDE],
            class_logits=self.network.class_predictor(queries),
            word_logits=self._word_logits(queries, words),
        )

    @contextmanager
    def _guided(self, guidance: PromptGuidance, words: GuidingWords) -> Iterator[None]:
        """While in it, the queries of each masked cross-attention read the words."""
        with ExitStack() as hooks:
            for index, layer in enumerate(self.network.model.transformer_module.decoder.layers):
                attention: nn.MultiheadAttention = layer.cross_attn
                if guidance.config.residual:
                    hook = partial(_read_first, guidance, index, words)
                    hooks.enter_context(attention.register_forward_pre_hook(hook, with_kwargs=True))
                else:
                    replace = partial(_read_instead, guidance, index, words)
                    hooks.enter_context(attention.register_forward_hook(replace, with_kwargs=True))
            yield


def _read_first(
    guidance: PromptGuidance,
    layer: int,
    words: GuidingWords,
    attention: nn.MultiheadAttention,
    args: tuple[Any, ...],
    inputs: dict[str, Any],
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Before a cross-attention: lets its queries (Q, B, C), positions added, read; its own W_q comes after."""
    queries = guidance.guide(layer, inputs["query"].transpose(0, 1), words)
    return args, inputs | {"query": queries.transpose(0, 1)}


def _read_instead(
    guidance: PromptGuidance,
    layer: int,
    words: GuidingWords,
    attention: nn.MultiheadAttention,
    args: tuple[Any, ...],
    inputs: dict[str, Any],
    plain: tuple[Tensor, Tensor],
) -> tuple[Tensor, Tensor]:
    """After a cross-attention: its result (Q, B, C) by Eq. 5 to the letter; the plain one for images without words.

    The attention is computed once more from its own projections, of which W_q is the paper's f_Q: no input that it
    takes could replace what comes after W_q.
    """
    weights, biases = attention.in_proj_weight.chunk(3), attention.in_proj_bias.chunk(3)
    queries, keys, values = (
        F.linear(inputs[name].transpose(0, 1), weight, bias)  # (B, Q or T, C)
        for name, weight, bias in zip(("query", "key", "value"), weights, biases, strict=True)
    )
    queries = guidance.replace(layer, queries, words)
    queries, keys, values = (in_heads(part, attention.num_heads) for part in (queries, keys, values))
    allowed = ~inputs["attn_mask"].unflatten(0, (-1, attention.num_heads))  # (B, heads, Q, T)
    dropout = attention.dropout if attention.training else 0.0
    read = F.scaled_dot_product_attention(queries, keys, values, allowed, dropout)
    guided = attention.out_proj(joined_heads(read)).transpose(0, 1)
    return torch.where(words.guides[..., None], guided, plain[0]), plain[1]


def load_mask2former(source: str) -> LoadedMask2Former:
    """Load a checkpoint in transformers' layout; nothing is downloaded.

    Args:
        source: a hub name in the local cache, such as "facebook/mask2former-swin-base-coco-panoptic", or a folder; it
            holds the weights and their config.json.

    Raises:
        CheckpointError: nothing is there, the files are damaged, or naming the keys that are missing, unexpected or of
            another shape.
    """
    files = find_weights(source)
    kind = files.settings.get("model_type")
    if kind != "mask2former":
        raise CheckpointError(
            f"{source} is no Mask2Former of transformers: model_type in its config.json is {kind!r}, expected "
            f"'mask2former'"
        )
    try:
        network, report = Mask2FormerForUniversalSegmentation.from_pretrained(
            files.shards[0].parent,
            local_files_only=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # to list them all below
            use_safetensors=files.shards[0].suffix == ".safetensors",
        )
    except (SafetensorError, OSError, ValueError, RuntimeError, KeyError, TypeError) as error:
        first_line = str(error).split("\n", maxsplit=1)[0]
        raise CheckpointError(f"{source} cannot be loaded as a Mask2Former: {first_line}") from error
    faults = list_faults(
        missing=sorted(report["missing_keys"]),
        unexpected=sorted(report["unexpected_keys"]),
        ill_shaped=sorted(fault if isinstance(fault, str) else fault[0] for fault in report["mismatched_keys"]),
    )
    if faults:
        raise CheckpointError(f"{source} does not fit the Mask2Former of its config.json: {faults}; download it again")
    names = class_names(network.config.num_labels, files.settings, source)
    return LoadedMask2Former(Mask2Former(network).eval(), names)
