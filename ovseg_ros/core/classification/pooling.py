"""CLIP's features pooled under masks: one look at the image, then one vector for each mask.

This is the out-of-vocabulary half of FC-CLIP (Yu et al., NeurIPS 2023, Sec. 3.3): a ConvNeXt keeps its meaning at
sizes it was not trained on, so the whole image is read once at stride 32.
"""

from functools import lru_cache
from typing import NamedTuple

import torch
import torch.nn.functional as F
from open_clip.timm_model import TimmModel
from open_clip.transformer import VisionTransformer
from pydantic import PositiveInt
from pydantic.dataclasses import dataclass
from timm.layers import resample_abs_pos_embed
from timm.models.convnext import ConvNeXt
from torch import Tensor, nn

from ovseg_ros.core.backbones.masked_attention import attended, queries_keys_values
from ovseg_ros.core.config import STRICT
from ovseg_ros.core.engine.part import Part, Port
from ovseg_ros.core.errors import ConfigError
from ovseg_ros.core.images import Canvas, squash

_SHAPES_KEPT = 8
"""Shapes of masks and grids whose geometry is kept: those of some cameras. Each is some 50 kB."""


@dataclass(frozen=True, slots=True, config=STRICT)
class PoolingConfig:
    """How large CLIP sees the image.

    Attributes:
        short_side, long_side: the image is scaled, keeping its aspect ratio, until its shorter side is `short_side`
            pixels or its longer one `long_side`, whichever comes first.
    """

    short_side: PositiveInt = 800
    long_side: PositiveInt = 1333

    def __post_init__(self) -> None:
        if self.short_side > self.long_side:
            raise ValueError(f"short_side must be at most long_side = {self.long_side}, got {self.short_side}")


class ConvNextEncoder(nn.Module):
    """A ConvNeXt CLIP before its pooling, and what follows it."""

    def __init__(self, visual: TimmModel) -> None:
        super().__init__()
        self.visual = visual
        self.stride = int(visual.trunk.feature_info[-1]["reduction"])

    def forward(self, images: Tensor) -> tuple[Tensor]:
        """(B, 3, H, W), sides multiples of the stride -> (B, C, H / stride, W / stride) alone."""
        return (self.visual.trunk.forward_features(images),)

    def project(self, pooled: Tensor) -> Tensor:
        """Pooled features (N, C) -> (N, D) in the space shared with text."""
        return self.visual.head(self.visual.trunk.forward_head(pooled[:, :, None, None]))


class VitEncoder(nn.Module):
    """A ViT CLIP's patch tokens after its last block, and the projection that its class token takes.

    Trained on class tokens only, its patches mean less than a ConvNeXt's features (FC-CLIP Tab. 9).
    """

    def __init__(self, visual: VisionTransformer) -> None:
        super().__init__()
        self.visual = visual
        self.stride = int(visual.patch_size[0])

    def forward(self, images: Tensor) -> tuple[Tensor]:
        """(B, 3, H, W), sides multiples of the patch -> (B, C, H / patch, W / patch) alone; positions are
        interpolated.
        """
        visual = self.visual
        features = visual.conv1(images)  # (B, C, rows, columns)
        rows, columns = features.shape[-2:]
        class_token = visual.class_embedding.expand(len(images), 1, -1)
        tokens = torch.cat([class_token, features.flatten(2).transpose(1, 2)], dim=1) + self._positions(rows, columns)
        tokens = visual.ln_pre(tokens)
        for block in visual.transformer.resblocks:
            tokens = attended(block, tokens, *queries_keys_values(block, tokens))
        return (tokens[:, 1:].transpose(1, 2).unflatten(2, (rows, columns)),)

    def project(self, pooled: Tensor) -> Tensor:
        """Pooled features (N, C) -> (N, D) in the space shared with text."""
        return self.visual.ln_post(pooled) @ self.visual.proj

    def _positions(self, rows: int, columns: int) -> Tensor:
        """(1, 1 + rows * columns, C); interpolated in float32."""
        own, grid = self.visual.positional_embedding[None], list(self.visual.grid_size)
        return own if [rows, columns] == grid else resample_abs_pos_embed(own, [rows, columns], old_size=grid)


def dense_encoder(visual: nn.Module) -> ConvNextEncoder | VitEncoder:
    """The part of a CLIP whose features can be pooled; ConfigError if it is no ConvNeXt nor ViT with a class token."""
    if isinstance(visual, TimmModel) and isinstance(visual.trunk, ConvNeXt):
        return ConvNextEncoder(visual)
    if isinstance(visual, VisionTransformer) and visual.attn_pool is None and visual.pool_type == "tok":
        return VitEncoder(visual)
    kind = type(visual.trunk if isinstance(visual, TimmModel) else visual).__name__
    raise ConfigError(f"mask pooling needs a convnext_* or ViT-* CLIP with a class token, got {kind}")


class _Pool(nn.Module):
    """Means of features under masks, projected as CLIP projects its own."""

    def __init__(self, encoder: ConvNextEncoder | VitEncoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, features: Tensor, weights: Tensor) -> tuple[Tensor]:
        """Features (B, C, rows, columns), weights (B, Q, rows, columns) -> (B, Q, D) alone, not of length 1."""
        pooled = weights.flatten(2) @ features.flatten(2).transpose(1, 2)  # (B, Q, C)
        return (self.encoder.project(pooled.flatten(0, 1)).unflatten(0, pooled.shape[:2]),)


class Features(NamedTuple):
    """What an encoder sees in images (B, C, rows, columns), and how many rows and columns of it the images cover."""

    maps: Tensor
    covered: tuple[float, float]


class MaskPooling(nn.Module):
    """Images and masks to one vector for each mask.

    Attributes:
        parts: the encoder, and what pools and projects.
    """

    def __init__(
        self,
        visual: nn.Module,
        config: PoolingConfig,
        mean: tuple[float, float, float],
        std: tuple[float, float, float],
    ) -> None:
        """`visual`: an open_clip image encoder; `mean`, `std`: of its input, for channels in [0, 1]."""
        super().__init__()
        self.encoder = dense_encoder(visual)
        self._config = config
        self._canvas = Canvas(mean, std, color=mean)  # 0 once it is normalised
        self._grids = CellGrids()
        images, masks = {0: "images"}, {0: "images", 1: "masks"}
        cells, weights, embeddings = Port("features", images), Port("weights", masks), Port("embeddings", masks)
        self._encode = Part("pixels", self.encoder, [Port("canvas", images)], [cells])
        self._pool = Part("pool", _Pool(self.encoder), [cells, weights], [embeddings])
        self.parts = (self._encode, self._pool)

    def look(self, images: Tensor) -> Features:
        """Features of images (B, 3, H, W) in [0, 1]."""
        canvas, covered = self._fit(images)
        (maps,) = self._encode(canvas)
        return Features(maps, covered)

    def forward(self, features: Features, mask_logits: Tensor) -> Tensor:
        """Embeddings (B, Q, D) of masks (B, Q, h, w) over the images that the features are of; not of length 1."""
        grid = (features.maps.shape[-2], features.maps.shape[-1])
        weights = self._grids.grid_weights(mask_logits, grid, features.covered)  # (B, Q, rows, columns)
        (embeddings,) = self._pool(features.maps, weights)
        return embeddings

    def _fit(self, images: Tensor) -> tuple[Tensor, tuple[float, float]]:
        """Scaled, normalised and padded images, and how many rows and columns of feature cells the image covers."""
        height, width = images.shape[-2:]
        scale = min(self._config.short_side / min(height, width), self._config.long_side / max(height, width))
        size = (max(1, round(height * scale)), max(1, round(width * scale)))
        stride = self.encoder.stride
        padded = (size[0] + -size[0] % stride, size[1] + -size[1] % stride)
        return self._canvas(squash(images, size), padded), (size[0] / stride, size[1] / stride)


class _Geometry(NamedTuple):
    """Where the cells of a grid (rows, columns) are on masks (h, w).

    Attributes:
        centres: (1, rows, columns, 2), x and y as `F.grid_sample` has them.
        on_image: (rows, columns), whether a cell's centre is on the image, and not on what pads it.
        down, across: (rows, h) and (w, columns), the length, in cells, that a cell shares with a pixel.
    """

    centres: Tensor
    on_image: Tensor
    down: Tensor
    across: Tensor


class CellGrids:
    """How much each feature cell counts for each mask; the weights of a mask add up to 1.

    A cell belongs to a mask if the mask's logit, interpolated at the cell's centre, is above 0 (as in FC-CLIP). A mask
    that holds no centre, because it is small or thin, takes the cells it touches, each by the mask's area in it.

    All of it is float32: in half precision, centres are off by so much that the weights change by 5 %. What depends on
    shapes alone, 30 small operations, is kept.
    """

    def __init__(self) -> None:
        self._geometry = lru_cache(maxsize=_SHAPES_KEPT)(_geometry)

    def grid_weights(self, mask_logits: Tensor, grid: tuple[int, int], covered: tuple[float, float]) -> Tensor:
        """(B, Q, rows, columns); all 0 for a mask without a pixel above 0.

        Args:
            mask_logits: (B, Q, h, w) over the image.
            grid: (rows, columns) of the feature cells, over the padded image.
            covered: (rows, columns) of them, as fractions, that the image covers from the top left.
        """
        masks = mask_logits.float()
        centres, on_image, down, across = self._geometry(grid, covered, tuple(masks.shape[-2:]), masks.device)
        centres = centres.expand(len(masks), -1, -1, -1)
        at_centres = F.grid_sample(masks, centres, mode="bilinear", padding_mode="border", align_corners=False)
        inside = (at_centres > 0) & on_image
        touched = down @ (masks > 0).float() @ across  # (B, Q, rows, columns), area in cells
        has_centre = inside.flatten(2).any(dim=2)[..., None, None]
        weights = torch.where(has_centre, inside.float(), touched)
        return weights / weights.sum(dim=(2, 3), keepdim=True).clamp(min=torch.finfo(weights.dtype).tiny)


@torch.inference_mode(False)  # so that what is kept may be read where gradients are
def _geometry(
    grid: tuple[int, int], covered: tuple[float, float], masks: tuple[int, int], device: torch.device
) -> _Geometry:
    y, x = (
        (torch.arange(cells, device=device, dtype=torch.float32) + 0.5) / extent
        for cells, extent in zip(grid, covered, strict=True)
    )  # centres as shares of the image; above 1 is padding
    points = torch.stack(torch.meshgrid(y, x, indexing="ij")[::-1], dim=-1) * 2 - 1  # (rows, columns, 2): x, y
    down, across = (_overlap(*axis, device) for axis in zip(grid, covered, masks, strict=True))
    return _Geometry(points[None], (y < 1)[:, None] & (x < 1), down, across.T)


def _overlap(cells: int, covered: float, pixels: int, device: torch.device) -> Tensor:
    """(cells, pixels): length, in cells, that each cell shares with each mask pixel."""
    pixel = covered / pixels
    starts = torch.arange(pixels, device=device, dtype=torch.float32) * pixel
    cell = torch.arange(cells, device=device, dtype=torch.float32)[:, None]
    return (torch.minimum(starts + pixel, cell + 1) - torch.maximum(starts, cell)).clamp(min=0)
