"""Tiny mask generators that words guide, under random weights, and their training on a handful of images."""

import zlib
from collections.abc import Sequence
from unittest.mock import patch

import numpy as np
import torch
import torch.nn.functional as F
from numbered_images import Striped
from torch import Tensor

from ovseg_ros.core.proposals.eomt.network import EoMT, EoMTConfig
from ovseg_ros.core.proposals.mask_network import MaskNetwork
from ovseg_ros.core.proposals.prompt_guidance import PromptConfig, PromptGuidance
from ovseg_ros.core.text import TextEncoder
from ovseg_ros.offline.data.types import PanopticDataset
from ovseg_ros.offline.train import pmp
from ovseg_ros.offline.train.augmentation import JitterConfig
from ovseg_ros.offline.train.data import PanopticData
from ovseg_ros.offline.train.engine import Run
from ovseg_ros.offline.train.loop_config import LoopConfig
from ovseg_ros.offline.train.losses import MaskLossConfig
from ovseg_ros.offline.train.questions import QuestionConfig

TEXT_WIDTH = 16
ARCHITECTURE = EoMTConfig((32, 48), width=16, depth=2, heads=2, num_queries=5, num_classes=2, joint_blocks=2)
JITTER = JitterConfig((32, 48), scale=(0.8, 1.5))
LOOP = LoopConfig(steps=4, batch_size=4, learning_rate=1e-2, warmup_steps=1, gradient_clip=1e9)


def encode(sentences: Sequence[str]) -> Tensor:
    """A random unit vector (N, 16) for each sentence, the same in every process."""
    rows = [np.random.default_rng(zlib.crc32(sentence.encode())).normal(size=TEXT_WIDTH) for sentence in sentences]
    return F.normalize(torch.tensor(np.array(rows), dtype=torch.float32), dim=-1)


TEXT = TextEncoder(encode, ["{}"])


def guided(network: MaskNetwork | None = None, *, opened: bool = False) -> MaskNetwork:
    """A network, else a tiny EoMT, with fresh guidance; `opened` gates let the words through."""
    torch.manual_seed(0)
    network = EoMT(ARCHITECTURE) if network is None else network
    network.guidance = PromptGuidance(*network.guided_layers, TEXT_WIDTH, PromptConfig(8, 2))
    for prompt in network.guidance.prompts if opened else ():
        torch.nn.init.normal_(prompt.out.weight, std=0.3)
    return network


def pmp_task(
    run: Run,
    network: MaskNetwork | None = None,
    *,
    dataset: PanopticDataset | None = None,
    loop: LoopConfig = LOOP,
    questions: QuestionConfig = QuestionConfig(),  # noqa: B008 - frozen
    augmentation: JitterConfig = JITTER,
    points: int = 0,
) -> pmp.PmpTask:
    """The real task on four images of one to four stripes, each of a category of its own."""
    data, loss = PanopticData(workers=2), MaskLossConfig(points=points)
    config = pmp.PmpTraining("none", data, augmentation, loop, loss, questions)
    with patch.object(pmp, "open_data", lambda *_: dataset or Striped(4)):
        return pmp.PmpTask(config, network or guided(), TEXT, run)
