"""A tiny OMTSeg under random weights, and its training on a handful of images."""

from unittest.mock import patch

import torch
from numbered_images import Striped

from ovseg_ros.core.backbones.beit3 import Beit3, Beit3Config
from ovseg_ros.core.joint.omtseg.config import AdapterConfig, DecoderConfig, OMTSegConfig
from ovseg_ros.core.joint.omtseg.network import OMTSegNetwork
from ovseg_ros.core.joint.omtseg.tokens import Tokenizer, WordTokenizer
from ovseg_ros.offline.data.open import dataset_info
from ovseg_ros.offline.data.types import PanopticDataset
from ovseg_ros.offline.train import omtseg
from ovseg_ros.offline.train.augmentation import AugmentationConfig, JitterConfig
from ovseg_ros.offline.train.data import PanopticData
from ovseg_ros.offline.train.engine import Run
from ovseg_ros.offline.train.loop_config import LoopConfig
from ovseg_ros.offline.train.losses import MaskLossConfig

CATEGORIES = dataset_info("cityscapes_panoptic").categories()
WORDS = sorted({word for c in CATEGORIES for phrase in (c.name, *c.synonyms) for word in phrase.split()})
TOKENIZER = WordTokenizer(WORDS)
# Not smaller: a group norm over two cells of a single channel blows up rounding.
ARCHITECTURE = OMTSegConfig(
    Beit3Config((64, 96), width=32, layers=4, heads=2, feed_forward_width=48, words=TOKENIZER.size, text_length=150),
    AdapterConfig(prior_width=4, heads=2, points=2),
    DecoderConfig(32, heads=2, pixel_layers=1, pixel_feed_forward_width=32, queries=5, layers=2, feed_forward_width=48),
    trained_words=150,
)
JITTER = JitterConfig((48, 80), scale=(0.8, 1.5))
LOOP = LoopConfig(steps=4, batch_size=4, learning_rate=3e-3, warmup_steps=1, gradient_clip=1e9)


def network(config: OMTSegConfig = ARCHITECTURE) -> OMTSegNetwork:
    """The same each time."""
    torch.manual_seed(0)
    return OMTSegNetwork(config, Beit3(config.encoder))


def omtseg_task(
    run: Run,
    model: OMTSegNetwork | None = None,
    *,
    dataset: PanopticDataset | None = None,
    loop: LoopConfig = LOOP,
    augmentation: AugmentationConfig = JITTER,
    points: int = 0,
    separators: int = 3,
    synonyms: float = 0.0,
    tokenizer: Tokenizer = TOKENIZER,
) -> omtseg.OMTSegTask:
    """The real task on four images of one to four stripes, each of a category of its own."""
    data, loss = PanopticData(workers=2), MaskLossConfig(points=points)
    config = omtseg.OMTSegTraining("none", data, augmentation, loop, loss, separators=separators, synonyms=synonyms)
    with patch.object(omtseg, "open_data", lambda *_: dataset or Striped(4)):
        return omtseg.OMTSegTask(config, model or network(), tokenizer, run)
