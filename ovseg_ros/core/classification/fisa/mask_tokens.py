"""The second stream of FISA: mask tokens read text and in-mask image tokens, and nobody reads them.

Since image tokens never depend on mask tokens, the two streams need no joint attention: mask tokens cost their own
attention rows and MLPs, and no (patches + masks)^2 matrix exists.
"""

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from open_clip.transformer import ResidualAttentionBlock, VisionTransformer
from torch import Tensor, nn

from ovseg_ros.core.backbones.masked_attention import attention_bias
from ovseg_ros.core.classification.fisa.clip_tower import class_token
from ovseg_ros.core.classification.fisa.config import FisaConfig
from ovseg_ros.core.errors import ConfigError
from ovseg_ros.core.text_attention import KeyValues, TextAttention


class MaskTokenStream(nn.Module):
    """What FISA adds to CLIP for mask tokens: SEVE and separate query projections f_q.

    CLIP itself is handed to `forward`, since it belongs to the classifier; layers without an own f_q use CLIP's.
    """

    def __init__(self, visual: VisionTransformer, config: FisaConfig) -> None:
        """`visual`: an open_clip VisionTransformer whose weights are loaded, for f_q starts as a copy of CLIP's.

        Raises:
            ConfigError: if the configuration names layers that the tower does not have.
        """
        super().__init__()
        blocks = visual.transformer.resblocks
        depth = len(blocks)
        self._seve_layers = _layers(config.seve_layers, depth, "seve_layers")
        width = blocks[0].attn.embed_dim
        self.seve = nn.ModuleList()  # one for all layers, or none
        if self._seve_layers:
            text_width = visual.proj.shape[1]  # of the space that image and text share
            self.seve.append(TextAttention(width, text_width, config.seve_width, config.seve_heads))
        self.queries = nn.ModuleDict()
        for layer in _layers(config.query_layers, depth, "query_layers"):
            attention = blocks[layer].attn
            query = nn.Linear(width, width)
            with torch.no_grad():
                query.weight.copy_(attention.in_proj_weight[:width])
                query.bias.copy_(attention.in_proj_bias[:width])
            self.queries[str(layer)] = query

    @property
    def reads_words(self) -> bool:
        """Whether there is a SEVE."""
        return bool(self._seve_layers)

    def text_key_values(self, vectors: Tensor) -> KeyValues | None:
        """What SEVE reads of text vectors (P, D); None where there is no SEVE."""
        if not self._seve_layers:
            return None
        seve = self.seve[0]
        assert isinstance(seve, TextAttention)  # a ModuleList loses the type
        return seve.key_values(vectors)

    def forward(
        self,
        visual: VisionTransformer,
        image: Iterable[KeyValues],
        inside: Tensor,
        text: KeyValues | None,
        text_bias: Tensor | None = None,
    ) -> Tensor:
        """Class-token outputs of mask tokens, in the shared space and not normalised: (N, M, D).

        Args:
            visual: the tower that `image` comes from.
            image: of N views, one entry a layer.
            inside: (N, M, P) bool, the patches that hold any pixel of a mask (FISA Eq. 5). A mask token also reads the
                class token, so that an empty mask has something to read.
            text: from `text_key_values`.
            text_bias: (P,), 0 for words and -inf for what only fills up; None where nothing does.
        """
        count, masks = inside.shape[:2]
        tokens = class_token(visual).expand(count, masks, -1)  # (N, M, C)
        bias = attention_bias(F.pad(inside, (1, 0), value=True)[:, None], tokens.dtype)  # (N, 1, M, 1 + P)
        for layer, (block, read) in enumerate(zip(visual.transformer.resblocks, image, strict=True)):
            if layer in self._seve_layers:
                tokens = tokens + self.seve[0](tokens, text, bias=text_bias)
            tokens = tokens + block.ls_1(self._read_image(block, layer, tokens, read, bias))
            tokens = tokens + block.ls_2(block.mlp(block.ln_2(tokens)))
        return visual.ln_post(tokens) @ visual.proj

    def _read_image(
        self, block: ResidualAttentionBlock, layer: int, tokens: Tensor, image: KeyValues, bias: Tensor
    ) -> Tensor:
        """Masked cross-attention, FISA Eqs 1 and 2: (N, M, C) -> (N, M, C)."""
        attention = block.attn
        normalised = block.ln_1(tokens)
        if str(layer) in self.queries:
            queries = self.queries[str(layer)](normalised)
        else:
            width = attention.embed_dim
            queries = F.linear(normalised, attention.in_proj_weight[:width], attention.in_proj_bias[:width])
        queries = queries.unflatten(-1, (attention.num_heads, -1)).transpose(1, 2)  # (N, heads, M, C / heads)
        read = F.scaled_dot_product_attention(queries, image.keys, image.values, attn_mask=bias)
        return attention.out_proj(read.transpose(1, 2).flatten(2))


def _layers(chosen: tuple[int, ...] | None, depth: int, name: str) -> tuple[int, ...]:
    if chosen is None:
        return tuple(range(depth))
    outside = [layer for layer in chosen if not 0 <= layer < depth]
    if outside or len(set(chosen)) != len(chosen):
        raise ConfigError(f"fisa.{name} must be different layers in 0 to {depth - 1} of this tower, got {list(chosen)}")
    return tuple(sorted(chosen))
