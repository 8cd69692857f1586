"""CLIP's features pooled under masks: one look at the image, then one vector for each mask.

This is the out-of-vocabulary half of FC-CLIP (Yu et al., NeurIPS 2023, Sec. 3.3): a ConvNeXt keeps its meaning at
sizes it was not trained on, so the whole image is read once at stride 32.
"""

import torch
import torch.nn.functional as F
from open_clip.timm_model import TimmModel
from open_clip.transformer import VisionTransformer
from pydantic import PositiveInt
from pydantic.dataclasses import dataclass
from timm.layers import resample_abs_pos_embed
from timm.models.convnext import ConvNeXt
from torch import Tensor, nn

from ovseg_ros.core.config import STRICT
from ovseg_ros.core.errors import ConfigError
from ovseg_ros.core.images import normalize


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

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W), sides multiples of the stride -> (B, C, H / stride, W / stride)."""
        return self.visual.trunk.forward_features(images)

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

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W), sides multiples of the patch -> (B, C, H / patch, W / patch); positions are interpolated."""
        visual = self.visual
        features = visual.conv1(images)  # (B, C, rows, columns)
        rows, columns = features.shape[-2:]
        positions = resample_abs_pos_embed(
            visual.positional_embedding[None], [rows, columns], old_size=list(visual.grid_size)
        )  # (1, 1 + rows * columns, C)
        class_token = visual.class_embedding.expand(len(images), 1, -1)
        tokens = torch.cat([class_token, features.flatten(2).transpose(1, 2)], dim=1) + positions
        tokens = visual.transformer(visual.ln_pre(tokens))
        return tokens[:, 1:].transpose(1, 2).unflatten(2, (rows, columns))

    def project(self, pooled: Tensor) -> Tensor:
        """Pooled features (N, C) -> (N, D) in the space shared with text."""
        return self.visual.ln_post(pooled) @ self.visual.proj


def dense_encoder(visual: nn.Module) -> ConvNextEncoder | VitEncoder:
    """The part of a CLIP whose features can be pooled; ConfigError if it is no ConvNeXt nor ViT with a class token."""
    if isinstance(visual, TimmModel) and isinstance(visual.trunk, ConvNeXt):
        return ConvNextEncoder(visual)
    if isinstance(visual, VisionTransformer) and visual.attn_pool is None and visual.pool_type == "tok":
        return VitEncoder(visual)
    kind = type(visual.trunk if isinstance(visual, TimmModel) else visual).__name__
    raise ConfigError(f"mask pooling needs a convnext_* or ViT-* CLIP with a class token, got {kind}")


class MaskPooling(nn.Module):
    """Images and masks to one unit vector for each mask."""

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
        self._config, self._mean, self._std = config, mean, std

    def forward(self, images: Tensor, mask_logits: Tensor) -> Tensor:
        """Unit embeddings of masks.

        Args:
            images: (B, 3, H, W) in [0, 1].
            mask_logits: (B, Q, h, w) over the same area.

        Returns:
            (B, Q, D).
        """
        canvas, covered = self._fit(images)
        features = self.encoder(canvas)  # (B, C, rows, columns)
        rows, columns = features.shape[-2:]
        weights = grid_weights(mask_logits.to(features.dtype), (rows, columns), covered)  # (B, Q, rows, columns)
        pooled = weights.flatten(2) @ features.flatten(2).transpose(1, 2)  # (B, Q, C)
        return F.normalize(self.encoder.project(pooled.flatten(0, 1)), dim=-1).unflatten(0, pooled.shape[:2])

    def _fit(self, images: Tensor) -> tuple[Tensor, tuple[float, float]]:
        """Scaled, normalised and padded images, and how many rows and columns of feature cells the image covers."""
        height, width = images.shape[-2:]
        scale = min(self._config.short_side / min(height, width), self._config.long_side / max(height, width))
        size = (max(1, round(height * scale)), max(1, round(width * scale)))
        if size != (height, width):
            images = F.interpolate(images, size=size, mode="bilinear", align_corners=False, antialias=scale < 1)
        stride = self.encoder.stride
        right, below = -size[1] % stride, -size[0] % stride
        canvas = F.pad(normalize(images, self._mean, self._std), (0, right, 0, below))
        return canvas, (size[0] / stride, size[1] / stride)


def grid_weights(mask_logits: Tensor, grid: tuple[int, int], covered: tuple[float, float]) -> Tensor:
    """How much each feature cell counts for each mask; the weights of a mask add up to 1.

    A cell belongs to a mask if the mask's logit, interpolated at the cell's centre, is above 0 (as in FC-CLIP). A mask
    that holds no centre, because it is small or thin, takes the cells it touches, each by the mask's area in it.

    Args:
        mask_logits: (B, Q, h, w) over the image.
        grid: (rows, columns) of the feature cells, over the padded image.
        covered: (rows, columns) of them, as fractions, that the image covers from the top left.

    Returns:
        (B, Q, rows, columns); all 0 for a mask without a pixel above 0.
    """
    y, x = (
        (torch.arange(cells, device=mask_logits.device, dtype=mask_logits.dtype) + 0.5) / extent
        for cells, extent in zip(grid, covered, strict=True)
    )  # centres as shares of the image; above 1 is padding
    points = torch.stack(torch.meshgrid(y, x, indexing="ij")[::-1], dim=-1) * 2 - 1  # (rows, columns, 2): x, y
    points = points.expand(len(mask_logits), -1, -1, -1)
    at_centres = F.grid_sample(mask_logits, points, mode="bilinear", padding_mode="border", align_corners=False)
    inside = (at_centres > 0) & (y < 1)[:, None] & (x < 1)
    down = _overlap(grid[0], covered[0], mask_logits.shape[2], mask_logits)  # (rows, h)
    across = _overlap(grid[1], covered[1], mask_logits.shape[3], mask_logits)  # (columns, w)
    touched = down @ (mask_logits > 0).to(mask_logits.dtype) @ across.T  # (B, Q, rows, columns), area in cells
    has_centre = inside.flatten(2).any(dim=2)[..., None, None]
    weights = torch.where(has_centre, inside.to(mask_logits.dtype), touched)
    return weights / weights.sum(dim=(2, 3), keepdim=True).clamp(min=torch.finfo(weights.dtype).tiny)


def _overlap(cells: int, covered: float, pixels: int, like: Tensor) -> Tensor:
    """(cells, pixels): length, in cells, that each cell shares with each mask pixel."""
    pixel = covered / pixels
    starts = torch.arange(pixels, device=like.device, dtype=like.dtype) * pixel
    cell = torch.arange(cells, device=like.device, dtype=like.dtype)[:, None]
    return (torch.minimum(starts + pixel, cell + 1) - torch.maximum(starts, cell)).clamp(min=0)
