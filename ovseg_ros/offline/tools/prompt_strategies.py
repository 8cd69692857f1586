"""Ways to let words take part in EoMT's masks: PMP's attention, and those it was compared with (PMP Table 3, Fig. 5).

For `ovseg ablate pmp` alone: presets know PMP only.
"""

import copy
import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from ovseg_ros.core.proposals.eomt.network import EoMT
from ovseg_ros.core.proposals.eomt.stem import Encoded
from ovseg_ros.core.proposals.prompt_guidance import GuidingWords
from ovseg_ros.core.text_attention import normalised_float32
from ovseg_ros.core.word_logits import IMPOSSIBLE


@dataclass(frozen=True, slots=True)
class Strategy:
    """How words take part.

    Attributes:
        queries: whether there are learned queries.
        text: whether words are tokens of the joint blocks, too: "kept" from the first block on, each making a mask as
            queries do, or "dropped" after each block and put back as they were before the next.
        guided: whether queries attend to the words before each joint block (PMP).
    """

    queries: bool = True
    text: Literal["none", "kept", "dropped"] = "none"
    guided: bool = False


STRATEGIES = {
    "none": Strategy(),
    "concatenate": Strategy(text="kept"),
    "concatenate_drop": Strategy(text="dropped"),
    "text_queries": Strategy(queries=False, text="kept"),
    "pmp": Strategy(guided=True),
}
"""By name; the paper's (a), (b), (c) and its own, after a generator that reads no words."""


@dataclass(frozen=True, slots=True)
class NamedMasks:
    """What a network with words says.

    Attributes:
        mask_logits: (B, Q, h, w).
        word_logits: (B, Q, K + 1) over the words that were asked for, the last is "no object".
        present: (B, Q) bool, False for masks of padding; None where there are none.
    """

    mask_logits: Tensor
    word_logits: Tensor
    present: Tensor | None


class PromptedEoMT(EoMT):
    """An EoMT with guidance, from its first joint block on, under a strategy.

    Whatever the strategy, the guidance's word head names all masks alike, those of text tokens, too: a text token's
    mask may well be of another word.
    """

    def __init__(self, network: EoMT, strategy: Strategy) -> None:
        """Begins with a copy of a network with guidance.

        Raises:
            ValueError: the network has no guidance; or rotary positions, whose table is made for its own queries.
        """
        if network.guidance is None or network.config.dinov3:
            raise ValueError("strategies are for an EoMT with guidance and learned positions")
        super().__init__(network.config)
        self.guidance = copy.deepcopy(network.guidance)
        self.load_state_dict(network.state_dict())
        self.strategy = strategy
        if strategy.text != "none":
            # Text tokens are as long as the learned queries, on average, when the training begins.
            width = network.guidance.word_head.embed.out_features
            self.text = nn.Linear(width, network.config.width)
            nn.init.normal_(self.text.weight, std=float(network.queries.weight.detach().std()) / math.sqrt(width))
            nn.init.zeros_(self.text.bias)

    def trained_parameters(self) -> list[nn.Parameter]:
        """Of the joint blocks, the heads with their skips, the queries and what reads words; the rest is frozen."""
        parts: list[nn.Module] = [*self._joint_blocks(), self.encoder.norm, self.mask_head, self.upscale, self.lateral]
        assert self.guidance is not None
        parts.append(self.guidance.word_head)
        if self.strategy.queries:
            parts.append(self.queries)
        if self.strategy.text != "none":
            parts.append(self.text)
        if self.strategy.guided:
            parts.append(self.guidance.prompts)
        return [parameter for part in parts for parameter in part.parameters()]

    @torch.no_grad()
    def encode(self, images: Tensor) -> tuple[Tensor, Encoded]:
        """Normalised images (B, 3, H, W) -> tokens (B, prefix + patches, C) before the first joint block, of what.

        Each image's are its own, in training, too: batch norms keep to what they have learned.
        """
        training = self.training
        self.eval()
        tokens, encoded = self._embed(images)
        for block in self.encoder.blocks[: -self.config.joint_blocks]:
            tokens = block(tokens)
        self.train(training)
        return tokens, encoded

    def decode(
        self, tokens: Tensor, encoded: Encoded, asked: GuidingWords, told: GuidingWords | None = None
    ) -> NamedMasks:
        """The masks after the last block.

        Args:
            tokens, encoded: from `encode`.
            asked: names the masks; as `guidance.prepare` makes it.
            told: what the strategy reads in their place, for controls; None = what is asked.
        """
        told = told or asked
        batch, kept = len(tokens), self.strategy.text == "kept"
        text = self._text_tokens(told, batch)  # (B, M, C), M = 0 without a part in the blocks
        queries = self.queries.weight[: None if self.strategy.queries else 0].expand(batch, -1, -1)
        if kept:
            queries, text = torch.cat([queries, text], dim=1), text[:, :0]
        counts = [queries.shape[1], text.shape[1], tokens.shape[1]]
        present = self._present(told, batch, sum(counts))
        for index, block in enumerate(self._joint_blocks()):
            if self.strategy.guided:
                queries = self._guide(index, queries, told)
            joined = block(
                torch.cat([queries, text, tokens], dim=1),
                attn_mask=None if present is None else present[:, None, None, :],
            )
            queries, _, tokens = joined.split(counts, dim=1)
        tokens = self.encoder.norm(torch.cat([queries, tokens], dim=1))
        prediction = self._predict(tokens, self._lead_in(encoded), asked)
        assert prediction.word_logits is not None  # there is guidance
        if present is None or not kept:
            return NamedMasks(prediction.mask_logits, prediction.word_logits, None)
        present = present[:, : counts[0]]
        absent = ~present[..., None] & prediction.word_logits.new_ones(prediction.word_logits.shape[-1]).bool()
        absent[..., -1] = False
        word_logits = prediction.word_logits.masked_fill(absent, IMPOSSIBLE)
        return NamedMasks(prediction.mask_logits, word_logits, present)

    def _joint_blocks(self) -> list[nn.Module]:
        return list(self.encoder.blocks[-self.config.joint_blocks :])

    def _text_tokens(self, words: GuidingWords, batch: int) -> Tensor:
        if self.strategy.text == "none":
            return self.queries.weight.new_zeros(batch, 0, self.config.width)
        tokens: Tensor = self.text(normalised_float32(words.vectors))
        return tokens.expand(batch, -1, -1)

    def _present(self, words: GuidingWords, batch: int, count: int) -> Tensor | None:
        """(B, `count`) bool, False for text tokens that are padding, among all tokens of a joint block; None = all."""
        if self.strategy.text == "none" or words.present is None:
            return None
        present = words.present.new_ones(batch, count)
        first = self.config.num_queries if self.strategy.queries else 0
        present[:, first : first + words.present.shape[-1]] = words.present
        return present
