"""What FISA's samples of a data set cost to load, by part, and what a number of GPUs needs of it, by arithmetic.

    python tools/measure_fisa_loading.py --data datasets/coco
    python tools/measure_fisa_loading.py --data datasets/coco --preset fisa_l       # where its weights are

Without a preset, the bundled mask generator at 640 pixels, its masks also mirrored, stands for a large one: it needs no
download and has 100 masks an image. Times are of processor cores, on one thread; what a device does is measured on the
processor, too, where there is no GPU, and not counted as loading. What GPUs need is an estimate: no GPU is timed.
"""

import argparse
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

from ovseg_ros.core.model import Proposer
from ovseg_ros.core.types import MaskProposals
from ovseg_ros.offline.train import data, fisa_data, proposal_cache, proposed_views
from ovseg_ros.offline.train.augmentation import JitterConfig, View
from ovseg_ros.offline.train.engine import Engine, Run
from ovseg_ros.offline.train.fisa import build_untrained
from ovseg_ros.offline.train.fisa_losses import FisaLossConfig
from ovseg_ros.offline.train.loop_config import LoopConfig

STAND_IN = "tabletop_fisa"
STEP_MS = 40.0
"""Of 2 images of fisa_l: 6.4 TFLOP each at 400 TFLOP/s are 32 ms; the rest is for what does not overlap."""
IMAGES_A_GPU = 2
COCO_IMAGES = 118_287
DEVICE = "the device, on the processor here"


class Mirrored(Proposer):
    """A generator's masks, then the same upside down and the wrong way round, so that they pack as others would."""

    def __init__(self, proposer: Proposer) -> None:
        super().__init__()
        self._proposer = proposer

    def prepare(self, text: Any) -> Any:
        """As the generator does."""
        return self._proposer.prepare(text)

    def forward(self, pixels: Tensor, words: Any) -> MaskProposals:
        """(B, 3, H, W) -> thrice the masks."""
        one = self._proposer(pixels, words)
        masks, classes = one.mask_logits, one.class_logits
        masks = torch.cat([masks, masks.flip(-1), masks.flip(-2)], dim=1)
        return MaskProposals(masks, one.query_embeddings.repeat(1, 3, 1), classes.repeat(1, 3, 1))


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="What FISA's samples of a data set cost to load.")
    parser.add_argument("--data", type=Path, required=True, help="the data set's folder")
    parser.add_argument("--dataset", default="coco_panoptic", help="its name (default: coco_panoptic)")
    parser.add_argument("--preset", default=STAND_IN, help=f"with the mask generator (default: {STAND_IN}, enlarged)")
    parser.add_argument("--size", type=int, default=1024, help="side of a view, pixels (default: 1024)")
    parser.add_argument("--images", type=int, default=32, help="how many are measured (default: 32)")
    parser.add_argument("--threads", type=int, default=1, help="that load (default: 1)")
    parser.add_argument("--step-ms", type=float, default=STEP_MS, help=f"of a GPU (default: {STEP_MS:g}, an estimate)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as out:
        loading, size, files = measure(options, Path(out))
    for gpus in (1, 8):
        needs(gpus, loading, size, files, options)
    return 0


def measure(options: argparse.Namespace, out: Path) -> tuple[float, float, float]:
    """Print the parts; returns core-ms of loading a sample, and bytes of an image's proposals and of its own files."""
    run = Run(options.data, out, Engine("cpu"))
    model, classifier = build_untrained(options.preset, torch.device("cpu"), 0)
    if options.preset == STAND_IN:
        model.proposer, model.input_size = Mirrored(model.proposer), (640, 640)
        classifier.config = replace(classifier.config, max_masks=100, min_objectness=0.0)
    config = data.PanopticData(options.dataset, workers=options.threads)
    dataset = data.open_data(config, run)
    loop = LoopConfig(steps=options.images // IMAGES_A_GPU, batch_size=IMAGES_A_GPU, learning_rate=1.0)
    side = (options.size, options.size)
    with timed() as spent:
        views = fisa_data.JitteredViews(
            model, classifier, dataset, config, JitterConfig(side, (0.1, 2.0)), loop, FisaLossConfig(), run
        )
        spent_before, begun, clock = dict(spent), time.process_time(), time.perf_counter()
        spent.clear()
        for step in range(loop.steps):
            views.counts(step, range(IMAGES_A_GPU))
        total, seconds = time.process_time() - begun, time.perf_counter() - clock
        views.close()
    samples = loop.steps * IMAGES_A_GPU
    packed = [path.stat().st_size for path in out.rglob("*.npz")]
    files = [sum(path.stat().st_size for path in dataset.paths_of(index)) for index in range(min(100, len(dataset)))]
    size, own = sum(packed) / len(packed), sum(files) / len(files)
    print(f"{dataset.name}, {samples} views of {options.size} x {options.size}, {options.threads} thread(s)")
    print(f"proposals: {size / 1e6:.3f} MB an image; packing {1000 * spent_before['pack'] / len(packed):.1f} core-ms")
    loading = 1000 * (total - spent[DEVICE]) / samples
    for part, taken in spent.items():
        print(f"{part:46} {1000 * taken / samples:7.1f} core-ms a sample")
    print(f"{'loading, all that is not the device':46} {loading:7.1f} core-ms a sample")
    print(f"{samples / seconds:.1f} samples/s here, with the device's part on the processor")
    return loading, size, own


@contextmanager
def timed() -> Iterator[dict[str, float]]:
    """Seconds of thread time by part, while this lasts."""
    spent: dict[str, float] = defaultdict(float)

    def of(part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **named: Any) -> Any:
            begun = time.thread_time()
            result = function(*args, **named)
            spent[part] += time.thread_time() - begun
            return result

        return run

    parts = (
        ("read image and annotation", data.PanopticStream, "_read"),
        ("draw the view", data, "draw_view"),
        ("image and segments of the view", fisa_data, "raw_view"),
        ("unpack masks", proposal_cache.ProposalCache, "read"),
        ("pack", proposal_cache, "_pack"),
        ("of the device: masks of the view", View, "of_masks"),
        ("of the device: levels to logits", proposed_views, "to_logits"),
        ("of the device: truth pooled", proposed_views, "pooled_masks"),
        ("of the device: overlaps", proposed_views, "overlaps"),
        (DEVICE, fisa_data, "proposed_views"),
    )
    with ExitStack() as stack:
        for part, owner, name in parts:
            stack.enter_context(patch.object(owner, name, of(part, getattr(owner, name))))
        yield spent


def needs(gpus: int, loading: float, size: float, files: float, options: argparse.Namespace) -> None:
    """Print what GPUs that never wait need: cores, disk, and what is read."""
    rate = gpus * IMAGES_A_GPU / options.step_ms * 1000
    print(
        f"{gpus} GPU(s), {IMAGES_A_GPU} images each in {options.step_ms:g} ms (estimated): {rate:.0f} samples/s, "
        f"{rate * loading / 1000:.1f} cores, {rate * (size + files) / 1e6:.0f} MB/s from the disk; COCO's proposals "
        f"{COCO_IMAGES * size / 1e9:.0f} GB"
    )


if __name__ == "__main__":
    sys.exit(main())
