"""Painted worlds: every category has its colour, so that a segmenter without learning is right, or wrong as told."""

import json
import math
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from torch import nn

from ovseg_ros.core.merge import MergeConfig
from ovseg_ros.core.model import Classifier, Proposer, TwoStage
from ovseg_ros.core.segmenter import PanopticSegmenter
from ovseg_ros.core.text import TextEncoder
from ovseg_ros.core.types import MaskProposals
from ovseg_ros.offline.evaluate import plan, run
from ovseg_ros.sim.categories import TABLETOP_SPECS

SIZE = (32, 48)
COLORS = ((255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0), (0, 255, 255), (255, 0, 255))


class ColourProposer(Proposer):
    """One mask for every colour but those in `blind`, moved by `shift` pixels to the right.

    Each is an object with 2/3, but for those in `unsure`, with 1/11.
    """

    def __init__(self, blind, shift, unsure):
        super().__init__()
        self.shift = shift
        self.seen = [index for index in range(len(COLORS)) if index not in blind]
        self.class_logits = torch.zeros(len(self.seen), 3)
        self.class_logits[[self.seen.index(index) for index in unsure], -1] = math.log(20)

    def prepare(self, text):
        return None

    def forward(self, pixels, words):
        colors = torch.tensor([COLORS[i] for i in self.seen], dtype=torch.float32).reshape(-1, 3, 1, 1) / 255
        distance = (pixels[:, None] - colors[None]).abs().amax(dim=2)
        masks = torch.where(distance < 0.1, 9.0, -9.0).roll(self.shift, dims=-1)  # (B, Q, h, w)
        return MaskProposals(masks, torch.zeros(*masks.shape[:2], 4), self.class_logits.expand(len(masks), -1, -1))


class ColourClassifier(Classifier):
    """Names a mask by the mean colour under it; `mistakes` says which category takes which one's name.

    Words in `unknown` it does not find.
    """

    def __init__(self, mistakes=None, unknown=()):
        super().__init__()
        self.mistakes, self.unknown = mistakes or {}, unknown

    def prepare(self, text):
        return text

    def forward(self, images, proposals, text, seen=None, least=0.0):
        inside = (proposals.mask_logits > 0).float()
        pixels = nn.functional.interpolate(images, size=inside.shape[-2:])
        mean = torch.einsum("bqhw,bchw->bqc", inside, pixels) / inside.sum(dim=(2, 3))[..., None].clamp(min=1)
        distance = (mean[:, :, None] - torch.tensor(COLORS)[None, None] / 255).abs().amax(dim=-1)  # (B, Q, colours)
        logits = torch.full((*distance.shape[:2], len(text.vocabulary.categories) + 1), -9.0)
        for query in range(distance.shape[1]):
            if inside[0, query].any():
                nearest = int(distance[0, query].argmin())
                category = text.vocabulary.categories[self.mistakes.get(nearest, nearest)]
                logits[0, query, -1 if category.name in self.unknown else category.id] = 9.0
            else:
                logits[0, query, -1] = 9.0
        return logits


def painted_segmenter(mistakes=None, blind=(), shift=0, unsure=(), unknown=()):
    text_encoder = TextEncoder(lambda sentences: torch.ones(len(sentences), 2) / 2**0.5, ["{}"])
    model = TwoStage(ColourProposer(blind, shift, unsure), ColourClassifier(mistakes, unknown), text_encoder, SIZE)
    return PanopticSegmenter(model, MergeConfig(min_area=1), torch.device("cpu"))


def write_folder(folder, count, *, seed=0, void=(), crowd=()):
    """A data set in the tabletop's format: rectangles of six categories; images in `void` are all void, in `crowd` the
    first segment is a crowd region. Categories 0 to 5 of `TABLETOP_SPECS`, ids 1 to 6."""
    generator = np.random.default_rng(seed)
    images, annotations = [], []
    for number in range(count):
        ids = np.zeros(SIZE, dtype=np.uint8)
        for segment in range(1, 7):
            top, left = generator.integers(0, SIZE[0] - 8), generator.integers(0, SIZE[1] - 8)
            height, width = generator.integers(8, 20, 2)
            ids[top : top + height, left : left + width] = segment
        if number in void:
            ids[:] = 0
        picture = np.full((*SIZE, 3), 40, dtype=np.uint8)
        for segment, color in enumerate(COLORS, start=1):
            picture[ids == segment] = color
        name = f"{number:06d}.png"
        for where, content in (("images", picture[..., ::-1]), ("panoptic", np.dstack([0 * ids, 0 * ids, ids]))):
            (folder / where).mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(folder / where / name), content)
        images.append({"id": number, "file_name": name, "width": SIZE[1], "height": SIZE[0]})
        present = [int(i) for i in np.unique(ids) if i]
        segments = [
            {
                "id": i,
                "category_id": i,
                "area": int((ids == i).sum()),
                "bbox": [0, 0, 1, 1],
                "iscrowd": int(number in crowd and i == present[0]),
            }
            for i in present
        ]
        annotations.append({"image_id": number, "file_name": name, "segments_info": segments})
    categories = [
        {"id": i, "name": spec.name, "isthing": int(spec.is_thing)} for i, spec in enumerate(TABLETOP_SPECS, start=1)
    ]
    index = {"info": {"split": "test"}, "images": images, "annotations": annotations, "categories": categories}
    (folder / "panoptic.json").write_text(json.dumps(index))
    return folder


@pytest.fixture
def painted(monkeypatch):
    """`use(segmenter)` makes the command evaluate it; `segmenter` and `write_folder` make things."""

    def use(segmenter):
        monkeypatch.setattr(run, "build_segmenter", lambda *_: segmenter)
        monkeypatch.setattr(plan, "checkpoint_paths", lambda preset: ())

    names = [spec.name for spec in TABLETOP_SPECS[:6]]
    return SimpleNamespace(use=use, segmenter=painted_segmenter, write_folder=write_folder, names=names, size=SIZE)
