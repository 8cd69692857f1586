"""A two-object scene and a generator that proposes its masks, for the tests of FISA's training and ablation."""

import numpy as np
import torch
from torch import nn

from ovseg_ros.core.types import MaskProposals
from ovseg_ros.offline.data.tabletop_views import TabletopViews


def coloured_views(count: int, right: str = "blue ball") -> TabletopViews:
    """A red square on the left and a blue one on the right, on a table; the blue one passes for a `right`."""
    image = np.full((64, 96, 3), 120, np.uint8)
    ids = np.ones((64, 96), np.uint8)
    image[16:48, 8:40], ids[16:48, 8:40] = (220, 20, 20), 2
    image[16:48, 56:88], ids[16:48, 56:88] = (20, 20, 220), 3
    names = ["table", "red ball", right]
    return TabletopViews(np.stack([image] * count), np.stack([ids] * count), [names] * count, [{}] * count)


class Proposer(nn.Module):
    """The two squares, the left one twice (the second a little too small), and a mask of nothing in particular."""

    def forward(self, images: torch.Tensor) -> MaskProposals:
        """(B, 3, 64, 96) -> 4 masks at stride 4, all likely."""
        masks = torch.full((len(images), 4, 16, 24), -8.0)
        masks[:, 0, 4:12, 2:10] = 8.0
        masks[:, 1, 5:12, 2:10] = 8.0
        masks[:, 2, 4:12, 14:22] = 8.0
        masks[:, 3, 0:8, 5:18] = 8.0
        likely = torch.tensor([4.0, 0.0, -4.0]).expand(len(images), 4, 3)
        return MaskProposals(masks, torch.zeros(len(images), 4, 1), likely)
