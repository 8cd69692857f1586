"""One step of every training on a batch of 4, by as many processes as there are; `test_shares.py` starts it.

In double precision, so that nothing can pass for rounding; but for CLIP, whose crops are made in single.

python distributed_run.py FOLDER PARTS
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import open_clip
import torch
from fisa_scenes import coloured_views, load_scene_clip, scene_model
from guided_networks import TEXT_WIDTH, encode, guided, pmp_task
from lmseg_training import lmseg_task
from numbered_images import Striped
from omtseg_networks import omtseg_task
from torch import Tensor

from ovseg_ros.core.backbones.sentence_clip import ClipConfig, ImageTower
from ovseg_ros.core.joint.closed_set import ClosedSet
from ovseg_ros.core.merge import MergeConfig
from ovseg_ros.core.proposals.eomt.network import EoMT, EoMTConfig
from ovseg_ros.core.proposals.padded import PaddedProposer
from ovseg_ros.core.sections import EoMTSection
from ovseg_ros.core.segmenter import PanopticSegmenter
from ovseg_ros.offline.train import eomt
from ovseg_ros.offline.train.augmentation import JitterConfig
from ovseg_ros.offline.train.clip import ClipTask, Stream
from ovseg_ros.offline.train.crops import CropSource
from ovseg_ros.offline.train.data import PanopticData, RenderedViews
from ovseg_ros.offline.train.engine import Engine, Run
from ovseg_ros.offline.train.fisa import FisaTask
from ovseg_ros.offline.train.fisa_data import CollectedMasks, JitteredViews, collect_masks
from ovseg_ros.offline.train.fisa_losses import FisaLossConfig
from ovseg_ros.offline.train.loop import LoopConfig, Task, run_loop
from ovseg_ros.offline.train.losses import MaskLossConfig
from ovseg_ros.offline.train.questions import QuestionConfig
from ovseg_ros.offline.train.text_jitter import TextJitter
from ovseg_ros.offline.train.validation import Validation, ValidationConfig
from ovseg_ros.offline.train.words import SeenWords

EOMT = EoMTConfig((32, 48), width=16, depth=2, heads=2, num_queries=4, num_classes=19, joint_blocks=2)
CLIP = ClipConfig(image_size=32, patch_size=8, width=32, layers=1, head_width=16, embed_dim=TEXT_WIDTH)
LOOP = LoopConfig(steps=4, batch_size=4, learning_rate=1e-3, warmup_steps=1, gradient_clip=1e9)
FISA_LOSS = FisaLossConfig(min_iou=0.3, none_weight=0.3)
DATA = PanopticData(workers=2)
NAMES = (
    "eomt", "eomt_points", "pmp", "pmp_points", "omtseg", "omtseg_points", "lmseg", "lmseg_likeliest", "fisa",
    "fisa_collected", "clip",
)  # fmt: skip
IN_DOUBLE = NAMES[:8]
"""FISA takes what a frozen CLIP makes in single precision, and CLIP's crops are made in it."""


def make(name: str, run: Run) -> tuple[Task, object]:
    """A training's real task and model, small and on a handful of images; and what to close."""
    jitter = JitterConfig((32, 48), scale=(0.8, 1.5))
    if name.startswith("eomt"):
        loss = MaskLossConfig(points=40 if name == "eomt_points" else 0)
        section = EoMTSection(EOMT, "eomt.safetensors")
        with patch.object(eomt, "open_data", lambda *_: Striped(4)):
            task = eomt.EoMTTask(eomt.EoMTTraining(section, DATA, jitter, LOOP, loss), run)
        return task, task.stream
    if name.startswith("pmp"):
        questions = QuestionConfig(synonyms=0.5)
        task = pmp_task(run, guided(opened=True), questions=questions, points=40 if name == "pmp_points" else 0)
        return task, task.stream
    if name.startswith("omtseg"):
        task = omtseg_task(run, synonyms=0.5, points=40 if name == "omtseg_points" else 0)
        return task, task.stream
    if name.startswith("lmseg"):
        others = "likeliest" if name == "lmseg_likeliest" else "random"
        return lmseg_task(run, others=others, max_words=7, synonyms=0.5)
    if name == "clip":
        torch.manual_seed(0)
        text = {"context_length": 1, "vocab_size": 1, "width": 8, "heads": 1, "layers": 1}
        vision = {key: getattr(CLIP, key) for key in ("image_size", "patch_size", "width", "layers", "head_width")}
        clip = open_clip.CustomTextCLIP(CLIP.embed_dim, vision, text, init_logit_bias=-8.0)
        views = replace(coloured_views(1), textures=[{"table": "wooden"}])
        streams = [Stream(CropSource(views, CLIP), share=1.0, stuff_share=0.3, masked=True)]
        moved = TextJitter(encode, ["river", "sky", "engine"], reach=1.0)
        return ClipTask(name, ImageTower(clip), encode, {}, streams, LOOP, 0.25, run.engine.device, moved), None
    scene_model()  # loads CLIP, which draws at random, once in a process
    torch.manual_seed(0)
    model, classifier = scene_model(mirrored=False, **({"view": "image", "input_size": 64} if name == "fisa" else {}))
    if name == "fisa":
        source = JitteredViews(model, classifier, Striped(4), DATA, jitter, LOOP, FISA_LOSS, run)
    else:
        words = SeenWords(model.text_encoder, 0.5)
        views = RenderedViews(coloured_views(2), Path("nowhere"), "train")
        source = CollectedMasks(collect_masks(model, classifier, views, words, FISA_LOSS), words, LOOP)
    return FisaTask(classifier, source, FISA_LOSS, name), source


def one_step(name: str, parts: int, folder: Path, engine: Engine) -> dict[str, dict[str, Tensor]]:
    """The gradients of a step by the real loop, by parameter, and the losses that its log would tell."""
    task, source = make(name, Run(None, folder, engine))
    config = replace(LOOP, steps=1, gradient_accumulation=parts)
    try:
        with nullcontext() if name == "clip" else double_precision(task):
            run_loop(task, config, folder / name, engine=engine)
    finally:
        if source is not None:
            source.close()
    gradients = {key: value.grad for key, value in task.model.named_parameters() if value.grad is not None}
    sums = torch.load(folder / name / "last.pt", weights_only=True)["sums"] if engine.is_main else {}
    return {"gradients": gradients, "losses": {key: torch.tensor(value) for key, value in sums.items()}}


def validated(engine: Engine) -> dict[str, float]:
    """The figures of a tiny EoMT on four of five images, divided over the processes."""
    torch.manual_seed(0)
    size = (32, 48)
    model = ClosedSet(PaddedProposer(EoMT(EOMT), size), [(c.name,) for c in Striped(5).categories], size)
    segmenter = PanopticSegmenter(
        model, MergeConfig(object_threshold=0, overlap_threshold=0, min_area=1), engine.device
    )
    figures, pictures = Validation(ValidationConfig(1, images=4), Striped(5), engine).measure(segmenter)
    assert len(pictures) == (3 if engine.is_main else 0)
    return figures


@contextmanager
def double_precision(task: Task) -> Iterator[None]:
    """All that asks for single precision gets double."""
    task.model.double()
    torch.set_default_dtype(torch.float64)
    try:
        with patch.object(Tensor, "float", Tensor.double):
            yield
    finally:
        torch.set_default_dtype(torch.float32)
        load_scene_clip.cache_clear()  # its text encoder keeps vectors, which are of double precision now


if __name__ == "__main__":
    folder, engine = Path(sys.argv[1]), Engine("cpu")
    found = {name: one_step(name, int(sys.argv[2]), folder, engine) for name in NAMES}
    torch.save({"world": engine.world, "validated": validated(engine), **found}, folder / f"rank{engine.rank}.pt")
    engine.wait()
    engine.close()
