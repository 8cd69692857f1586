"""EoMT: a plain ViT whose last blocks also process the mask queries (Kerssies et al., CVPR 2025).

The first L1 blocks see [class, register, patch] tokens. Learned queries join for the last L2 blocks. A mask is the
dot product of a query, through a small MLP, with the patch features upscaled to a quarter of the input's size.
"""

from itertools import zip_longest
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field, PositiveInt
from pydantic.dataclasses import dataclass as pydantic_dataclass
from timm.layers import resample_abs_pos_embed
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from ovseg_ros.core.config import STRICT
from ovseg_ros.core.proposals.eomt.blocks import ScaleBlock, block_settings
from ovseg_ros.core.proposals.eomt.rotary import rotary_table
from ovseg_ros.core.proposals.eomt.stem import Encoded, Grid, PretrainedStem, convolutional_stem
from ovseg_ros.core.proposals.mask_network import MaskNetwork
from ovseg_ros.core.proposals.prompt_guidance import GuidingWords
from ovseg_ros.core.types import MaskProposals, QueryPrediction

Size = Annotated[int, Field(ge=1, le=8192)]


@pydantic_dataclass(frozen=True, slots=True, config=STRICT)
class EoMTConfig:
    """Architecture of an EoMT.

    Attributes:
        image_size: (height, width) in pixels that the position embedding is made for; other sizes are interpolated.
            With rotary positions, which fit every size, only what the weights were trained with.
        patch_size: pixels along a patch's side.
        width, depth, heads: of the ViT.
        register_tokens: extra tokens beside the class token.
        layer_scale: initial LayerScale, or None for a ViT without it.
        convolutional_stem: embed patches by stacked 3x3 convolutions (Xiao et al., 2021) instead of one projection;
            a small ViT trains much faster from scratch with it.
        pretrained_stem: embed them by most of this network instead, which can be had pretrained. Then it is no plain
            ViT.
        skips: the upscale blocks also see the maps of the pretrained stem that have their resolution.
        swiglu: gated MLPs of two thirds the hidden width, as DINOv2's giant has, instead of GELU MLPs.
        dinov3: a ViT as DINOv3's S, B and L are: rotary positions instead of learned ones, queries, keys and values
            from a matrix each, of which the keys' has no bias, and 1e-5 in the normalisations instead of 1e-6.
        num_queries: most masks in an image.
        num_classes: closed-set classes, without "no object".
        joint_blocks: L2, the blocks that queries pass through.
        upscale_blocks: each doubles the mask resolution; 2 with 16-pixel patches gives stride 4.
    """

    image_size: tuple[Size, Size]
    patch_size: Size = 16
    width: Size = 384
    depth: Annotated[int, Field(ge=1, le=256)] = 12
    heads: PositiveInt = 6
    register_tokens: Annotated[int, Field(ge=0, le=1024)] = 4
    layer_scale: Annotated[float, Field(ge=0, le=1000)] | None = 1.0
    convolutional_stem: bool = False
    pretrained_stem: Literal["efficientnet_lite0"] | None = None
    skips: bool = False
    swiglu: bool = False
    dinov3: bool = False
    num_queries: Size = 200
    num_classes: Annotated[int, Field(ge=1, le=65_535)] = 133
    joint_blocks: PositiveInt = 3
    upscale_blocks: Annotated[int, Field(ge=0, le=6)] = 2

    def __post_init__(self) -> None:
        if self.joint_blocks > self.depth:
            raise ValueError(f"joint_blocks must be 1 to depth = {self.depth}, got {self.joint_blocks}")
        if self.width % self.heads:
            raise ValueError(f"width must be a multiple of heads = {self.heads}, got {self.width}")
        if self.dinov3 and self.swiglu:
            raise ValueError("swiglu is DINOv2's; DINOv3's S, B and L have none, so leave either swiglu or dinov3 out")
        if self.dinov3 and self.width % (4 * self.heads):
            raise ValueError(
                f"rotary positions turn 4 channels of a head together; {self.heads} heads do not share a width of "
                f"{self.width} in multiples of 4"
            )
        if self.pretrained_stem is not None and (self.convolutional_stem or self.dinov3 or self.patch_size != 16):
            raise ValueError(
                "a pretrained_stem makes patches of 16 pixels for a ViT with learned positions, and there is one stem "
                "only; leave it, or convolutional_stem and dinov3 out, and patch_size at 16"
            )
        if self.skips and (self.pretrained_stem is None or self.upscale_blocks < 2):
            raise ValueError("skips need a pretrained_stem, and 2 or more upscale_blocks to lead to; leave skips out")
        if self.patch_size > min(self.image_size):
            raise ValueError(
                f"patch_size must be {min(self.image_size)} at most, got {self.patch_size}: no patch fits "
                f"into image_size {self.image_size}"
            )
        if self.convolutional_stem and (self.patch_size == 1 or self.patch_size & (self.patch_size - 1)):
            raise ValueError(f"a convolutional stem needs a patch size that is a power of two, got {self.patch_size}")
        if self.convolutional_stem and 2 * self.width < self.patch_size:
            raise ValueError(
                f"a convolutional stem halves the channels {self.patch_size.bit_length() - 2} times for patches of "
                f"{self.patch_size}; width must be {self.patch_size // 2} or more, got {self.width}"
            )


def _build_encoder(config: EoMTConfig) -> VisionTransformer:
    encoder = VisionTransformer(
        img_size=config.image_size,
        patch_size=config.patch_size,
        num_classes=0,
        global_pool="",
        embed_dim=config.width,
        depth=config.depth,
        num_heads=config.heads,
        init_values=config.layer_scale,
        class_token=True,
        reg_tokens=config.register_tokens,
        no_embed_class=True,
        dynamic_img_size=True,
        **block_settings(config.width, swiglu=config.swiglu, dinov3=config.dinov3),
    )
    if config.convolutional_stem:
        encoder.patch_embed.proj = convolutional_stem(config.width, config.patch_size)
    elif config.pretrained_stem is not None:
        encoder.patch_embed.proj = PretrainedStem(config.width)
    return encoder


class EoMT(MaskNetwork):
    """Encoder-only Mask Transformer. Words, where they guide, are read before each joint block."""

    _places: Tensor | None  # on a canvas: learned positions, but for its own, or the rotary table

    def __init__(self, config: EoMTConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = _build_encoder(config)
        self.queries = nn.Embedding(config.num_queries, config.width)
        self.class_head = nn.Linear(config.width, config.num_classes + 1)
        self.mask_head = nn.Sequential(
            nn.Linear(config.width, config.width),
            nn.GELU(),
            nn.Linear(config.width, config.width),
            nn.GELU(),
            nn.Linear(config.width, config.width),
        )
        self.upscale = nn.Sequential(*[ScaleBlock(config.width) for _ in range(config.upscale_blocks)])
        self.lateral = nn.ModuleList(
            nn.Conv2d(channels, config.width, kernel_size=1)
            for channels in PretrainedStem.finer_channels
            if config.skips
        )
        self._canvas: Grid | None = None
        self.register_buffer("_places", None, persistent=False)

    def on_canvas(self, height: int, width: int) -> None:
        """From now on images lie at the top left of a canvas of this size, pixels, and patches know where on it.

        Their positions are made here, once. This holds for images that fit, in inference: weights must not change after
        it, and a training ends it.
        """
        self._canvas, grid = None, (height // self.config.patch_size, width // self.config.patch_size)
        rotation = self._rotation(grid)
        places = self._positions(grid) if rotation is None else rotation
        is_own = places is self.encoder.pos_embed  # which need not be held twice
        self._canvas, self._places = grid, None if is_own else places.detach().clone()

    def fold_norms(self) -> None:
        """The batch norms of a pretrained stem; as of `MaskNetwork`."""
        if isinstance(self.encoder.patch_embed.proj, PretrainedStem):
            self.encoder.patch_embed.proj.fold_norms()

    def train(self, mode: bool = True) -> "EoMT":
        """As of any module; a training ends `on_canvas`."""
        if mode:
            self._canvas = self._places = None
        return super().train(mode)

    def forward(self, images: Tensor, words: GuidingWords | None = None) -> MaskProposals:
        """Mask proposals, without masked attention.

        Args:
            images: (B, 3, H, W) float, normalised; H and W are multiples of the patch size. Converted to the weights'
                type, which the outputs keep.
            words: from `guidance.prepare`, if there is guidance.

        Returns:
            `mask_logits` (B, Q, H / 4, W / 4) for 16-pixel patches and two upscale blocks.

        Raises:
            ValueError: there is guidance, but no words.
        """
        tokens, encoded, _ = self._run(images, None, words=words)
        final = self._predict(tokens, encoded, words)
        return MaskProposals(
            mask_logits=final.mask_logits,
            query_embeddings=tokens[:, : self.config.num_queries],
            class_logits=final.class_logits,
            word_logits=final.word_logits,
        )

    def patches(self, images: Tensor) -> Tensor:
        """Of images as of `forward`, the patches after the last block: (B, C, H / patch, W / patch)."""
        tokens, (grid, _), _ = self._run(images, None)
        return tokens[:, -grid[0] * grid[1] :].transpose(1, 2).unflatten(2, grid)

    def forward_layers(self, images: Tensor, words: GuidingWords | None = None) -> list[QueryPrediction]:
        """As `forward_masked`, without masks."""
        return self.forward_masked(images, torch.zeros(self.config.joint_blocks), words=words)

    @property
    def guided_layers(self) -> tuple[int, int]:
        """The joint blocks, and the ViT's width."""
        return self.config.joint_blocks, self.config.width

    @property
    def has_convolutions(self) -> bool:
        """Whether more than one embeds the patches."""
        return self.config.convolutional_stem or self.config.pretrained_stem is not None

    @property
    def patch_size(self) -> int:
        """The ViT's."""
        return self.config.patch_size

    def mask_size(self, height: int, width: int) -> tuple[int, int]:
        """The patches, doubled by each upscale block."""
        patch, factor = self.config.patch_size, 2**self.config.upscale_blocks
        return height // patch * factor, width // patch * factor

    def forward_masked(
        self,
        images: Tensor,
        mask_probabilities: Tensor,
        draws: Tensor | None = None,
        words: GuidingWords | None = None,
    ) -> list[QueryPrediction]:
        """Training pass: a prediction before each joint block and after the last, each masking the block that follows.

        In joint block i, a query attends only to patches inside its predicted mask, with probability
        `mask_probabilities[i]` drawn for every query, and to all patches otherwise (mask annealing, EoMT Sec. 3.3).

        Args:
            images: as in `forward`.
            mask_probabilities: (L2,) in [0, 1].
            draws: (L2, B, Q) in [0, 1), of which those below its block's probability mask; None draws them here.
            words: as in `forward`.

        Returns:
            L2 + 1 predictions, the final one last.
        """
        tokens, encoded, predictions = self._run(images, mask_probabilities, draws, words)
        return [*predictions, self._predict(tokens, encoded, words)]

    def _run(
        self,
        images: Tensor,
        mask_probabilities: Tensor | None,
        draws: Tensor | None = None,
        words: GuidingWords | None = None,
    ) -> tuple[Tensor, Encoded, list[QueryPrediction]]:
        """Normalised tokens after the last block, what they are of, and predictions before each masked joint block."""
        self._require_words(words)
        tokens, embedded = self._embed(images)
        encoded, grid = self._lead_in(embedded), embedded.grid
        rotation, count = self._rotation(grid), self.config.num_queries
        predictions = []
        for index, block in enumerate(self.encoder.blocks, start=self.config.joint_blocks - self.config.depth):
            if index == 0:  # the first joint block
                queries = self.queries.weight.expand(tokens.shape[0], -1, -1)
                tokens = torch.cat([queries, tokens], dim=1)  # (B, Q + N, C)
            attention_mask = None
            if index >= 0 and mask_probabilities is not None:
                prediction = self._predict(self.encoder.norm(tokens), encoded, words)
                predictions.append(prediction)
                drawn = None if draws is None else draws[index]
                attention_mask = self._attention_mask(
                    prediction.mask_logits, grid, tokens.shape[1], mask_probabilities[index], drawn
                )
            if index >= 0 and words is not None:
                queries, rest = tokens.split([count, tokens.shape[1] - count], dim=1)
                tokens = torch.cat([self._guide(index, queries, words), rest], dim=1)
            # The table begins with the queries, which may not have joined.
            rotary = {} if rotation is None else {"rope": rotation[-tokens.shape[1] :]}
            tokens = block(tokens, attn_mask=attention_mask, **rotary)
        return self.encoder.norm(tokens), encoded, predictions

    def _embed(self, images: Tensor) -> tuple[Tensor, Encoded]:
        """(B, 3, H, W) -> tokens (B, 1 + registers + patches, C), and what they are of."""
        encoder, stem = self.encoder, self.encoder.patch_embed.proj
        images = images.to(encoder.cls_token.dtype)
        finer: list[Tensor] = []
        if isinstance(stem, PretrainedStem):
            embedded, maps = stem.pyramid(images)
            features = embedded.permute(0, 2, 3, 1)
            finer = maps if self.config.skips else []
        else:
            features = encoder.patch_embed(images)  # (B, rows, columns, C)
        batch, grid = features.shape[0], (features.shape[1], features.shape[2])
        patches = features.flatten(1, 2)
        if encoder.pos_embed is not None:
            patches = patches + self._positions(grid)
        prefix = [encoder.cls_token.expand(batch, -1, -1)]
        if encoder.reg_token is not None:
            prefix.append(encoder.reg_token.expand(batch, -1, -1))
        return torch.cat([*prefix, patches], dim=1), Encoded(grid, finer)

    def _lead_in(self, embedded: Encoded) -> Encoded:
        """What the upscale blocks read of what `_embed` has seen."""
        finer = [lateral(one) for lateral, one in zip(self.lateral, embedded.finer, strict=True)]
        return Encoded(embedded.grid, finer)

    def _positions(self, grid: Grid) -> Tensor:
        """(1, P, C) to add to the patches of a grid."""
        learned, own = self.encoder.pos_embed, self.encoder.patch_embed.grid_size
        if self._canvas is not None and _fits(grid, self._canvas):
            return _top_left(learned if self._places is None else self._places, self._canvas, grid)
        if grid == own:  # timm would interpolate it all the same, unless it is square
            return learned
        return resample_abs_pos_embed(learned, new_size=[*grid], old_size=[*own], num_prefix_tokens=0)

    def _rotation(self, grid: Grid) -> Tensor | None:
        """(Q + prefix + P, 2 D) for P patches and heads of width D, in the weights' type; None with learned ones."""
        if not self.config.dinov3:
            return None
        unturned = self.config.num_queries + self.encoder.num_prefix_tokens
        if self._canvas is None or self._places is None or not _fits(grid, self._canvas):
            weights = self.encoder.cls_token  # a table of another type would make queries and keys of its own
            table = rotary_table(grid, self.config.width // self.config.heads, unturned, weights.device)
            return table.to(weights.dtype)
        if grid == self._canvas:
            return self._places
        return torch.cat([self._places[:unturned], _top_left(self._places[unturned:], self._canvas, grid)])

    def _predict(self, tokens: Tensor, encoded: Encoded, words: GuidingWords | None) -> QueryPrediction:
        """Heads on normalised tokens (B, Q + prefix + patches, C), however many queries Q there are."""
        grid = encoded.grid
        queries, patches = tokens[:, : -grid[0] * grid[1]], tokens[:, -grid[0] * grid[1] :]
        queries = queries[:, : queries.shape[1] - self.encoder.num_prefix_tokens]  # (B, Q, C)
        features = patches.transpose(1, 2).unflatten(2, grid)
        for block, finer in zip_longest(self.upscale, encoded.finer):
            features = block(features, finer)  # (B, C, h, w)
        return QueryPrediction(
            mask_logits=torch.einsum("bqc,bchw->bqhw", self.mask_head(queries), features),
            class_logits=self.class_head(queries),
            word_logits=self._word_logits(queries, words),
        )

    def _attention_mask(
        self,
        mask_logits: Tensor,
        grid: Grid,
        num_tokens: int,
        probability: Tensor,
        drawn: Tensor | None,
    ) -> Tensor | None:
        """Boolean (B, 1, N, N), True = may attend; None when nothing is masked."""
        if float(probability) <= 0:
            return None
        batch, queries = mask_logits.shape[:2]
        inside = F.interpolate(mask_logits.detach(), size=grid, mode="bilinear", align_corners=False) > 0
        inside = inside.flatten(2)  # (B, Q, patches)
        drawn = torch.rand(batch, queries, device=inside.device) if drawn is None else drawn
        unmasked = (drawn >= probability)[..., None]
        allowed = inside.new_ones(batch, 1, num_tokens, num_tokens)
        allowed[:, 0, :queries, num_tokens - inside.shape[2] :] = inside | unmasked
        return allowed


def _fits(grid: Grid, canvas: Grid) -> bool:
    return grid[0] <= canvas[0] and grid[1] <= canvas[1]


def _top_left(places: Tensor, canvas: Grid, grid: Grid) -> Tensor:
    """Of places (..., P, C) of a canvas's patches, those of a grid at its top left."""
    if grid == canvas:
        return places
    return places.unflatten(-2, canvas)[..., : grid[0], : grid[1], :].flatten(-3, -2)


def annealed_mask_probabilities(progress: float, num_blocks: int) -> Tensor:
    """Masking probability of every joint block at a point of training, earlier blocks annealed first.

    Block i keeps probability 1 until (i + 1) / (n + 2) of the run, then falls to 0 as (1 - t)^0.9 while t goes from 0
    to 1 over the next 1 / (n + 2), after the schedule of EoMT's published configurations. Slots overlap by none.

    Args:
        progress: share of the training steps done, 0 to 1.
        num_blocks: L2.

    Returns:
        (L2,) float in [0, 1].
    """
    slot = 1 / (num_blocks + 2)
    starts = slot * torch.arange(1, num_blocks + 1)
    return (1 - ((progress - starts) / slot).clamp(0, 1)) ** 0.9
