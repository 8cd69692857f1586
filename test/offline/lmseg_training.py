"""A tiny LMSeg on a CLIP and an EoMT of random weights, and its training on a handful of images."""

from dataclasses import replace
from functools import cache, partial
from unittest.mock import patch

import open_clip
import torch
from numbered_images import Striped
from open_clip import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
from open_clip.tokenizer import SimpleTokenizer
from tiny_lmseg import ARCHITECTURE, CLIP_SHAPES
from tiny_omtseg import stir
from torch import Tensor

from ovseg_ros.core.backbones.open_clip_model import encode_prompts
from ovseg_ros.core.config import from_mapping
from ovseg_ros.core.descriptions import DescriptionFiles
from ovseg_ros.core.proposals.eomt.features import EoMTFeatures
from ovseg_ros.core.proposals.eomt.network import EoMT, EoMTConfig
from ovseg_ros.core.scoring.lmseg.config import LMSegConfig
from ovseg_ros.core.scoring.lmseg.scorer import LMSegScorer
from ovseg_ros.core.text import TextEncoder
from ovseg_ros.offline.data.open import dataset_info
from ovseg_ros.offline.data.types import PanopticDataset
from ovseg_ros.offline.train import lmseg
from ovseg_ros.offline.train.augmentation import AugmentationConfig, JitterConfig
from ovseg_ros.offline.train.data import DataConfig, PanopticData
from ovseg_ros.offline.train.engine import Run
from ovseg_ros.offline.train.lmseg import LMSegTask, LMSegTraining, Sentences
from ovseg_ros.offline.train.lmseg_data import LabelledViews
from ovseg_ros.offline.train.loop_config import LoopConfig

CATEGORIES = dataset_info("cityscapes_panoptic").categories()
TEMPLATES = ("a photo of a {}", "the {}")
JITTER = JitterConfig((32, 48), scale=(0.6, 1.5))
LOOP = LoopConfig(steps=4, batch_size=4, learning_rate=3e-3, warmup_steps=1, gradient_clip=1e9)
_EOMT = EoMTConfig(
    (32, 48), width=16, depth=2, heads=2, num_queries=2, num_classes=2, joint_blocks=1, convolutional_stem=True
)


@cache
def _tokenizer() -> SimpleTokenizer:
    return SimpleTokenizer(context_length=77)


def tiny_scorer(
    *, tuned: bool = True, descriptions: DescriptionFiles | None = None, **changes: object
) -> tuple[LMSegScorer, Sentences]:
    """The same each time; `tuned`: whether queries and values of CLIP's two towers learn."""
    torch.manual_seed(0)
    clip = open_clip.CustomTextCLIP(**CLIP_SHAPES).requires_grad_(False).eval()
    config = from_mapping(LMSegConfig, {**ARCHITECTURE, "padded_words": 32, "tunes_clip": tuned}, "architecture")
    config = replace(config, **changes)  # type: ignore[arg-type]
    second = EoMTFeatures(EoMT(_EOMT))
    text, width = clip.text if tuned else None, second.width
    pixels = {"mean": OPENAI_DATASET_MEAN, "std": OPENAI_DATASET_STD}
    scorer = LMSegScorer(clip.visual, text, second, config, sam_width=width, **pixels)
    stir(scorer, 0.05)
    encode = partial(encode_prompts, clip, _tokenizer())
    return scorer, Sentences(TextEncoder(encode, TEMPLATES, None, descriptions), encode if tuned else None)


def lmseg_task(
    run: Run,
    model: tuple[LMSegScorer, Sentences] | None = None,
    *,
    dataset: PanopticDataset | None = None,
    data: DataConfig | None = None,
    augmentation: AugmentationConfig | None = JITTER,
    loop: LoopConfig = LOOP,
    **changes: object,
) -> tuple[LMSegTask, LabelledViews]:
    """The real task, and its views, which are to be closed.

    Args:
        model: as of `tiny_scorer`, the default.
        dataset: four images of one to four stripes, each of a category of its own, unless given.
        changes: of `LMSegTraining`.
    """
    scorer, sentences = model or tiny_scorer()
    config = LMSegTraining("none", data or PanopticData(workers=2), loop, augmentation, **changes)  # type: ignore[arg-type]
    with patch.object(lmseg, "open_semantic", lambda *_: dataset or Striped(4)):
        views, categories = lmseg.open_views(config, scorer, run)
    return LMSegTask(config, scorer, sentences, views, categories), views


def batch_loss(task: LMSegTask, count: int, step: int = 0) -> Tensor:
    """Of a whole batch of `count`."""
    return task.losses(step, range(count), task.counts(step, range(count)))["bce"]
