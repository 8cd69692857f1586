"""Prompt-guided mask proposals, PMP (Li et al., arXiv 2412.10292): words take part in making the masks.

Before a query looks at the image, it attends to the words that are asked for (Sec. 3.3.1), and what it finds is named
by its likeness to them (Eq. 1). What the paper leaves open is decided in docs/pmp.md.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from pydantic import PositiveInt
from pydantic.dataclasses import dataclass as pydantic_dataclass
from torch import Tensor, nn

from ovseg_ros.core.config import STRICT
from ovseg_ros.core.engine.precision import Float32Island
from ovseg_ros.core.errors import ConfigError
from ovseg_ros.core.text_attention import (
    KeyValues,
    TextAttention,
    TextKeyValues,
    TextProjections,
    in_float32,
    in_heads,
    joined_heads,
    linear_float32,
    read_text,
)
from ovseg_ros.core.word_logits import IMPOSSIBLE, best_prompts

_FIRST_TEMPERATURE = 0.07  # CLIP's before its training
_LARGEST_SCALE = 100.0  # CLIP's limit


@pydantic_dataclass(frozen=True, slots=True, config=STRICT)
class PromptConfig:
    """How queries attend to words.

    Attributes:
        width, heads: of the attention.
        residual: whether what a query reads is added to it; False takes its place in the masked attention, as Eq. 5
            literally says, for Mask2Former only.
    """

    width: PositiveInt = 256
    heads: PositiveInt = 8
    residual: bool = True

    def __post_init__(self) -> None:
        if self.width % self.heads:
            raise ValueError(f"width must be a multiple of heads = {self.heads}, got {self.width}")


@dataclass(frozen=True, slots=True)
class GuidingWords:
    """Words made ready to guide.

    Attributes:
        vectors: (P, D) unit text vectors for all images, or (B, P, D).
        layers: keys and values of the guided layers, (L, heads, P, d / heads) or (L, B, heads, P, d / heads).
        present: (P,) or (B, P) bool, False for rows that are not asked for, such as padding; None asks for all.
        owner: (P,) int64 in [0, K), the category of each row; None where each row is one.
        count: K, the number of categories.
    """

    vectors: Tensor
    layers: KeyValues
    present: Tensor | None
    owner: Tensor | None
    count: int

    def of_layer(self, layer: int) -> KeyValues:
        """Its keys and values."""
        return KeyValues(self.layers.keys[layer], self.layers.values[layer])

    @property
    def guides(self) -> Tensor:
        """() bool for all images, or (B,) of each: whether there is any word that guides."""
        if self.present is not None:
            return self.present.any(dim=-1)
        return torch.full((), self.vectors.shape[-2] > 0, device=self.vectors.device)


class WordHead(Float32Island):
    """Names a query by its cosine with words and with a learned "no object" (Eq. 1), under a learned temperature."""

    def __init__(self, token_width: int, text_width: int) -> None:
        """`token_width` C of queries, `text_width` D of text vectors."""
        super().__init__()
        self.hidden = nn.Linear(token_width, token_width)
        self.embed = nn.Linear(token_width, text_width)
        self.no_object = nn.Parameter(torch.randn(text_width) / math.sqrt(text_width))
        self.logit_scale = nn.Parameter(torch.tensor(math.log(1 / _FIRST_TEMPERATURE)))

    def forward(self, queries: Tensor, words: GuidingWords) -> Tensor:
        """Logits (B, Q, K + 1) of queries (B, Q, C), float32; the last is "no object".

        A category's logit is its best row's.
        """
        with in_float32(queries.device):
            hidden = F.relu(linear_float32(self.hidden, queries))
            embeddings = F.normalize(linear_float32(self.embed, hidden), dim=-1)  # (B, Q, D)
            scale = self.logit_scale.float().exp().clamp(max=_LARGEST_SCALE)
            rows = scale * embeddings @ words.vectors.float().transpose(-1, -2)  # (B, Q, P)
            nothing = scale * embeddings @ F.normalize(self.no_object.float(), dim=0)  # (B, Q)
        if words.present is not None:
            rows = rows.masked_fill(~words.present[..., None, :], IMPOSSIBLE)
        if words.owner is not None:
            rows = best_prompts(rows, words.owner, words.count)
        return torch.cat([rows, nothing[..., None]], dim=-1)


class PromptGuidance(nn.Module):
    """A text attention for each guided layer, and the head that names queries by words."""

    def __init__(self, layers: int, token_width: int, text_width: int, config: PromptConfig) -> None:
        """`layers` of queries of `token_width` C, guided by text vectors of `text_width` D.

        Raises:
            ConfigError: what is read shall take the queries' place, but is not as wide.
        """
        super().__init__()
        if not config.residual and config.width != token_width:
            raise ConfigError(
                f"prompt.residual: false needs prompt.width {token_width}, as wide as this generator's queries, got "
                f"{config.width}"
            )
        self.config = config
        self.prompts = nn.ModuleList(
            TextAttention(token_width, text_width, config.width, config.heads)
            if config.residual
            else TextKeyValues(text_width, config.width, config.heads)
            for _ in range(layers)
        )
        self.word_head = WordHead(token_width, text_width)

    def prepare(
        self, vectors: Tensor, *, owner: Tensor | None = None, count: int | None = None, present: Tensor | None = None
    ) -> GuidingWords:
        """Words made ready: text vectors (P, D) for all images, or (B, P, D); the rest as in `GuidingWords`.

        All that depends on the words alone is computed here, once for each vocabulary.
        """
        layers = []
        for prompt in self.prompts:
            assert isinstance(prompt, TextProjections)  # a ModuleList loses the type
            layers.append(prompt.key_values(vectors))
        keys, values = (torch.stack(part) for part in zip(*layers, strict=True))
        count = vectors.shape[-2] if count is None else count
        return GuidingWords(vectors, KeyValues(keys, values), present, owner, count)

    def guide(self, layer: int, queries: Tensor, words: GuidingWords) -> Tensor:
        """Queries (B, Q, C) before a layer and, added to them, what they read of the words."""
        prompt = self.prompts[layer]
        assert isinstance(prompt, TextAttention)  # residual
        return queries + prompt(queries, words.of_layer(layer), words.present)

    def replace(self, layer: int, queries: Tensor, words: GuidingWords) -> Tensor:
        """Q' of Eq. 5, in the place of projected queries (B, Q, C), of the same shape and type: what they read.

        For a guidance that is not residual. Without any word, the queries as they are.
        """
        if words.vectors.shape[-2] == 0:
            return queries
        with in_float32(queries.device):
            read = read_text(in_heads(queries.float(), self.config.heads), words.of_layer(layer), words.present)
            return joined_heads(read).to(queries.dtype)

    def word_logits(self, queries: Tensor, words: GuidingWords) -> Tensor:
        """See `WordHead`."""
        logits: Tensor = self.word_head(queries, words)
        return logits
