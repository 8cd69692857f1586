"""The distribution adapter: a few convolutions that fit a mask generator's masks to CLIP (FISA Sec. 4)."""

from torch import Tensor, nn


class DistributionAdapter(nn.Module):
    """Residual 3x3 convolutions on each mask by itself, with ReLU between them; the last one starts at zero.

    CLIP reads thresholded masks, through which no gradient passes: the adapter learns from losses on its own output.
    """

    def __init__(self, convolutions: int, width: int) -> None:
        """`convolutions` 0 (the identity) or more, with `width` hidden channels."""
        super().__init__()
        channels = [1, *[width] * (convolutions - 1), 1] if convolutions else []
        layers: list[nn.Module] = []
        for index in range(convolutions):
            if index:
                layers.append(nn.ReLU())
            layers.append(nn.Conv2d(channels[index], channels[index + 1], kernel_size=3, padding=1))
        if convolutions:
            nn.init.zeros_(layers[-1].weight)  # type: ignore[arg-type]
            nn.init.zeros_(layers[-1].bias)  # type: ignore[arg-type]
        self.layers = nn.Sequential(*layers)

    def forward(self, mask_logits: Tensor) -> Tensor:
        """Mask logits (N, M, h, w) -> adapted mask logits of the same shape, in the type of the weights."""
        if not len(self.layers) or 0 in mask_logits.shape[:2]:
            return mask_logits
        mask_logits = mask_logits.to(next(self.parameters()).dtype)
        change = self.layers(mask_logits.flatten(0, 1)[:, None])[:, 0]  # (N * M, h, w)
        return mask_logits + change.unflatten(0, mask_logits.shape[:2])
