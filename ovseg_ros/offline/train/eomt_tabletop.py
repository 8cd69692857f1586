"""Train a class-agnostic EoMT on the tabletop's seen categories."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ovseg_ros.core.images import IMAGENET_MEAN, IMAGENET_STD, normalize
from ovseg_ros.core.proposals.eomt.network import EoMT, EoMTConfig, annealed_mask_probabilities
from ovseg_ros.offline.data.tabletop_views import TabletopViews, load_or_render
from ovseg_ros.offline.train.engine import Engine
from ovseg_ros.offline.train.loop import LoopConfig, run_loop
from ovseg_ros.offline.train.losses import MaskLossConfig, MaskTargets, mask_set_loss
from ovseg_ros.sim.categories import STUFF

THING, STUFF_CLASS = 0, 1
"""The closed set: what kind of segment a query is. Names are left to the classifier, so that unseen objects live."""

_STUFF_NAMES = frozenset(word.name for word in STUFF)
_MASK_STRIDE = 4


@dataclass(frozen=True, slots=True)
class CropPhase:
    """Until `until` (share of the steps), train on random crops of `size` (height, width)."""

    until: float
    size: tuple[int, int]


@dataclass(frozen=True, slots=True)
class EoMTTrainingConfig:
    """A tabletop training of EoMT: data and schedule.

    Attributes:
        scenes, views: training data, `views` poses of each of the first `scenes` scenes.
        phases: crop sizes over time, the last one until 1. Small crops first: several times the steps for the same
            work.
    """

    loop: LoopConfig
    scenes: int
    views: int
    phases: tuple[CropPhase, ...]
    loss: MaskLossConfig = field(default_factory=MaskLossConfig)


def train_eomt(
    architecture: EoMTConfig,
    config: EoMTTrainingConfig,
    data: Path,
    out: Path,
    *,
    engine: Engine,
) -> EoMT:
    """Train, resuming from the folder `eomt` in `out`. Returns the model in evaluation mode."""
    with engine.main_first():
        views = load_or_render(data, "train", scenes=config.scenes, views=config.views)
    torch.manual_seed(config.loop.seed)
    model = EoMT(architecture)

    def losses_at(step: int) -> dict[str, Tensor]:
        progress = step / config.loop.steps
        size = next(phase.size for phase in config.phases if progress < phase.until)
        images, targets = sample_batch(views, config.loop, step, size)
        shown = engine.samples(config.loop.batch_size)
        images = images[shown.start : shown.stop].to(engine.device)
        targets = [MaskTargets(t.masks.to(engine.device), t.classes.to(engine.device)) for t in targets]
        # Every process has the whole batch, so all normalise by its number of masks.
        count = sum(len(target.classes) for target in targets) * len(shown) / config.loop.batch_size
        probabilities = annealed_mask_probabilities(progress, architecture.joint_blocks)
        predictions = model.forward_masked(images, probabilities)
        return mask_set_loss(predictions, targets[shown.start : shown.stop], config.loss, count=max(1.0, count))

    run_loop(model, losses_at, config.loop, out / "eomt", name="eomt", engine=engine)
    return model


def sample_batch(
    views: TabletopViews, loop: LoopConfig, step: int, size: tuple[int, int]
) -> tuple[Tensor, list[MaskTargets]]:
    """The batch of a step: random crops, flips and exposures; a function of (seed, step)."""
    rng = np.random.default_rng([loop.seed, step])
    pixels, targets = [], []
    for index in rng.integers(len(views), size=loop.batch_size):
        image, ids = _random_crop(views.images[index], views.segment_ids[index], size, rng)
        pixels.append(_random_exposure(image, rng))
        targets.append(_to_targets(ids, views.labels[index]))
    images = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2)  # (B, 3, H, W)
    return normalize(images, IMAGENET_MEAN, IMAGENET_STD), targets


def _random_crop(
    image: np.ndarray, ids: np.ndarray, size: tuple[int, int], rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    height, width = size
    top = int(rng.integers(image.shape[0] - height + 1))
    left = int(rng.integers(image.shape[1] - width + 1))
    image, ids = image[top : top + height, left : left + width], ids[top : top + height, left : left + width]
    if rng.random() < 0.5:
        image, ids = image[:, ::-1], ids[:, ::-1]
    return image, ids


def _random_exposure(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Random gain, per-channel tint and noise; float32 (H, W, 3) in [0, 1]."""
    gain = rng.uniform(0.75, 1.25) * rng.uniform(0.94, 1.06, size=3)
    return np.clip(image * (gain / 255).astype(np.float32), 0, 1, dtype=np.float32)


def _to_targets(ids: np.ndarray, labels: list[str]) -> MaskTargets:
    """One soft mask at stride 4 for every segment that covers at least two cells of it."""
    one_hot = torch.from_numpy(ids.astype(np.int64))[None] == torch.arange(1, len(labels) + 1)[:, None, None]
    masks = F.avg_pool2d(one_hot.float()[None], _MASK_STRIDE)[0]  # (N, H / 4, W / 4)
    present = masks.sum(dim=(1, 2)) >= 2
    classes = torch.tensor([STUFF_CLASS if label in _STUFF_NAMES else THING for label in labels], dtype=torch.int64)
    return MaskTargets(masks[present], classes[present])
