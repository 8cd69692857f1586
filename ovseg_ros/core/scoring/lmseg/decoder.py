"""From refined cells to logits of each word on a grid four times as fine, with detail from CLIP's blocks."""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from ovseg_ros.core.scoring.lmseg.config import LMSegConfig

SCALE = 4
"""Cells of the result along one cell of the input."""
_GROUP = 16


class Upsampling(nn.Module):
    """Doubles the resolution and reads guidance, which is the same for all words."""

    def __init__(self, inside: int, outside: int, guidance: int) -> None:
        """`inside`, `outside`: channels before and after; `guidance`: of what is read."""
        super().__init__()
        self.up = nn.ConvTranspose2d(inside, inside - guidance, kernel_size=2, stride=2)
        self.conv1 = nn.Conv2d(inside, outside, kernel_size=3, padding=1, bias=False)
        self.norm1 = nn.GroupNorm(outside // _GROUP, outside)
        self.conv2 = nn.Conv2d(outside, outside, kernel_size=3, padding=1, bias=False)
        self.norm2 = nn.GroupNorm(outside // _GROUP, outside)

    def read(self, guidance: Tensor) -> Tensor:
        """The guidance's half of a convolution of maps and guidance (B, G, 2h, 2w) side by side: (B, C', 2h, 2w).

        It is the same for all words.
        """
        return F.conv2d(guidance, self.conv1.weight[:, -guidance.shape[1] :], padding=1)

    def forward(self, maps: Tensor, guide: Tensor) -> Tensor:
        """Maps (B, K, C, h, w), and what `read` made of the guidance -> (B, K, C', 2h, 2w)."""
        batch, words = maps.shape[:2]
        maps = self.up(maps.flatten(0, 1))  # (B * K, C - G, 2h, 2w)
        maps = F.conv2d(maps, self.conv1.weight[:, : maps.shape[1]], padding=1)
        maps = maps.unflatten(0, (batch, words)) + guide[:, None]
        maps = F.relu(self.norm1(maps.flatten(0, 1)))
        maps = F.relu(self.norm2(self.conv2(maps)))
        return maps.unflatten(0, (batch, words))


class Decoder(nn.Module):
    """Two steps of upsampling and a head."""

    def __init__(self, config: LMSegConfig, clip_width: int) -> None:
        """`clip_width`: channels of CLIP's blocks."""
        super().__init__()
        parts = config.upsampling
        self.skips = nn.ModuleList(  # to the resolution of either step
            nn.ConvTranspose2d(clip_width, width, kernel_size=scale, stride=scale)
            for width, scale in zip(parts.skip_widths, (2, SCALE), strict=True)
        )
        self.guidance = nn.ModuleList(
            nn.Conv2d(wide, narrow, kernel_size=3, padding=1)
            for wide, narrow in zip(parts.skip_widths, parts.guidance_widths, strict=True)
        )
        inside = (config.width, parts.widths[0])
        self.steps = nn.ModuleList(
            Upsampling(*widths) for widths in zip(inside, parts.widths, parts.guidance_widths, strict=True)
        )
        self.head = nn.Conv2d(parts.widths[1], 1, kernel_size=3, padding=1)

    def guides(self, skips: Sequence[Tensor]) -> list[Tensor]:
        """What the steps take from CLIP's features (B, C, h, w): (B, C', 2h, 2w) and (B, C'', 4h, 4w)."""
        guides = []
        for step, convolve, upsample, skip in zip(self.steps, self.guidance, self.skips, skips, strict=True):
            assert isinstance(step, Upsampling)  # a ModuleList loses the type
            guides.append(step.read(F.relu(convolve(upsample(skip)))))
        return guides

    def forward(self, cells: Tensor, guides: Sequence[Tensor]) -> Tensor:
        """Cells (B, K, h, w, C) -> logits (B, K, 4h, 4w)."""
        maps = cells.movedim(-1, 2)
        for step, guide in zip(self.steps, guides, strict=True):
            maps = step(maps, guide)
        batch, words = maps.shape[:2]
        logits: Tensor = self.head(maps.flatten(0, 1))[:, 0].unflatten(0, (batch, words))
        return logits
