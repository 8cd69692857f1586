"""A two-object scene, and the bundled CLIP behind a generator that proposes its masks, for tests that train FISA."""

import copy
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import torch

from ovseg_ros.core.build import LoadedClip, build_classifier, load_clip
from ovseg_ros.core.classification.fisa.classifier import FisaClassifier
from ovseg_ros.core.model import Proposer, TwoStage
from ovseg_ros.core.presets import load_preset, preset_folder
from ovseg_ros.core.sections import FisaSection
from ovseg_ros.core.types import MaskProposals, TextEmbeddings
from ovseg_ros.offline.data.tabletop_views import TabletopViews
from ovseg_ros.offline.train.data import RenderedViews


def coloured_views(count: int, right: str = "blue ball") -> TabletopViews:
    """A red square on the left and a blue one on the right, on a table; the blue one passes for a `right`."""
    image = np.full((64, 96, 3), 120, np.uint8)
    ids = np.ones((64, 96), np.uint8)
    image[16:48, 8:40], ids[16:48, 8:40] = (220, 20, 20), 2
    image[16:48, 56:88], ids[16:48, 56:88] = (20, 20, 220), 3
    names = ["table", "red ball", right]
    return TabletopViews(np.stack([image] * count), np.stack([ids] * count), [names] * count, [{}] * count)


def coloured_samples(count: int, right: str = "blue ball") -> RenderedViews:
    """Those views as a data set."""
    return RenderedViews(coloured_views(count, right), Path("nowhere"), "train")


class SquareProposer(Proposer):
    """The two squares, the left one twice (the second a little too small), and a mask of nothing in particular."""

    def prepare(self, text: TextEmbeddings) -> None:
        """Nothing."""

    def forward(self, pixels: torch.Tensor, words: None) -> MaskProposals:
        """(B, 3, 64, 96) -> 4 masks at stride 4, all likely."""
        assert not torch.is_grad_enabled()  # it is frozen
        masks = torch.full((len(pixels), 4, 16, 24), -8.0)
        masks[:, 0, 4:12, 2:10] = 8.0
        masks[:, 1, 5:12, 2:10] = 8.0
        masks[:, 2, 4:12, 14:22] = 8.0
        masks[:, 3, 0:8, 5:18] = 8.0
        likely = torch.tensor([4.0, 0.0, -4.0]).expand(len(pixels), 4, 3)
        return MaskProposals(masks, torch.zeros(len(pixels), 4, 1), likely)


@cache
def load_scene_clip() -> LoadedClip:
    """The CLIP of the preset `tabletop_fisa`, once in a process."""
    preset = load_preset("tabletop_fisa").model
    return load_clip(preset.clip, preset.templates, preset_folder("tabletop_fisa"), torch.device("cpu"))


def scene_model(**changes: object) -> tuple[TwoStage, FisaClassifier]:
    """The preset `tabletop_fisa`, untrained, with that generator and these changes of its FISA, on its own CLIP."""
    clip = load_scene_clip()
    section = load_preset("tabletop_fisa").model.classifier
    section = FisaSection(replace(section.architecture, **changes))
    clip = replace(clip, tower=copy.deepcopy(clip.tower))
    classifier = build_classifier(section, clip, preset_folder("tabletop_fisa"), ())
    return TwoStage(SquareProposer(), classifier, clip.text_encoder, (64, 96)).eval(), classifier
