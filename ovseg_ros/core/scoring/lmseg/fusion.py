"""CLIP's features, which know words, and SAM's, which know edges, as one (LMSeg Sec. 3.3)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ovseg_ros.core.scoring.lmseg.config import FusionConfig

_LEAST_SHARE = 0.05


class Fusion(nn.Module):
    """Features of CLIP's grid and space, with those of a second encoder added, by an adapter that begins at zero.

    F / w is returned, of F = w F_clip + (1 - w) F_second: cosines do not ask for the scale, but the convolution that
    guides the aggregation does. So before any training the features are CLIP's to the bit, whatever w is. A w below
    0.05 counts as 0.05, but that of 0 leaves CLIP out.
    """

    share: Tensor

    def __init__(self, config: FusionConfig, width: int, second_width: int) -> None:
        """`width` D of CLIP's shared space, `second_width` of the second encoder."""
        super().__init__()
        self._kind = config.kind
        self._leaves_clip_out = config.kind == "fixed" and config.clip_share == 0
        self.norm = nn.LayerNorm(second_width)
        self.project = nn.Linear(second_width, width)
        # Not beside weights that are zero, too, from where neither would learn; nor alone: zero has no direction.
        if config.kind != "concat" and not self._leaves_clip_out:
            nn.init.zeros_(self.project.weight)
            nn.init.zeros_(self.project.bias)
        share = torch.tensor(config.clip_share)
        at_first = share.logit()
        match config.kind:
            case "fixed":
                self.register_buffer("share", share, persistent=False)
            case "scalar":
                self.share_logit = nn.Parameter(at_first)
            case "channel":
                self.share_logit = nn.Parameter(at_first.repeat(width)[:, None, None])
            case "pixel":
                self.predict = nn.Conv2d(2 * width, 1, kernel_size=1)
                nn.init.zeros_(self.predict.weight)
                self.predict.bias = nn.Parameter(at_first[None].clone())
            case "concat":
                self.mix = nn.Conv2d(2 * width, width, kernel_size=1, bias=False)
                with torch.no_grad():
                    self.mix.weight.copy_(torch.eye(width, 2 * width)[..., None, None])

    def forward(self, clip: Tensor, second: Tensor) -> Tensor:
        """CLIP's (B, D, h, w) and the second encoder's (B, C, any, any), over the same image -> (B, D, h, w)."""
        resized = F.interpolate(second, size=clip.shape[-2:], mode="bilinear", align_corners=False)
        adapted = self.project(self.norm(resized.movedim(1, -1))).movedim(-1, 1)  # (B, D, h, w)
        if self._kind == "concat":
            return self.mix(torch.cat([clip, adapted], dim=1))
        if self._leaves_clip_out:
            return adapted
        share = self.clip_share(clip, adapted).clamp(min=_LEAST_SHARE)
        return clip + (1 - share) / share * adapted

    def clip_share(self, clip: Tensor, adapted: Tensor) -> Tensor:
        """w, which multiplies (B, D, h, w)."""
        if self._kind == "fixed":
            return self.share
        if self._kind == "pixel":
            return self.predict(torch.cat([clip, adapted], dim=1)).sigmoid()
        return self.share_logit.sigmoid()
