"""Whole frames of mask generators, from image to panoptic map, beside transformers' with the same random weights."""

import copy
import statistics
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from ovseg_ros.core.merge import MergeConfig, merge_panoptic
from ovseg_ros.core.proposals.mask2former import Mask2Former
from ovseg_ros.core.proposals.published import published_mask2former
from ovseg_ros.core.vocabulary import CategorySpec, Vocabulary
from ovseg_ros.offline.tools.bench_models import model_pass_against_transformers
from ovseg_ros.offline.tools.bench_peers import blobs
from ovseg_ros.offline.tools.count_masks import mask2former_shapes

TINY = "facebook/mask2former-swin-tiny-coco-panoptic"
_SIDE, _STRIDE, _KEPT, _ROUNDS = 640, 4, 60, 5
_THINGS = 80  # of COCO's categories
_VGA = (480, 640)


def peer_frames(device: torch.device) -> list[dict[str, Any]]:
    """Of EoMT-S and of Mask2Former on Swin-T, at 640x640: the pass, and what makes a 640x480 map of 60 masks.

    Weights are random, so the masks of the second are not those of the first; both sides get the same.
    """
    passes = model_pass_against_transformers(device)
    rows = [_row("EoMT-S", passes.ours_ms, passes.theirs_ms, passes.largest_error, _post_eomt(device))]
    ours_ms, theirs_ms, error = _mask2former_pass(device)
    return [*rows, _row("Mask2Former Swin-T", ours_ms, theirs_ms, error, _post_mask2former(device))]


def _row(model: str, ours: float, theirs: float, error: float, post: tuple[float, float]) -> dict[str, Any]:
    figures = {
        "pass_ours_ms": ours,
        "pass_transformers_ms": theirs,
        "post_ours_ms": post[0],
        "post_transformers_ms": post[1],
        "ours_ms": ours + post[0],
        "transformers_ms": theirs + post[1],
    }
    return {"model": model, **{name: round(value, 3) for name, value in figures.items()}, "error": error}


@torch.inference_mode()
def _mask2former_pass(device: torch.device) -> tuple[float, float, float]:
    """Milliseconds of ours and theirs, and the largest difference of their logits."""
    published = published_mask2former(TINY)
    assert published is not None
    torch.manual_seed(0)
    ours = mask2former_shapes(published, torch.device("cpu")).to(device)
    assert isinstance(ours, Mask2Former)
    theirs = copy.deepcopy(ours.network)
    images = torch.randn(1, 3, _SIDE, _SIDE, device=device)

    def run_ours() -> tuple[Tensor, ...]:
        found = ours(images)
        assert found.class_logits is not None
        return found.mask_logits, found.class_logits

    def run_theirs() -> tuple[Tensor, ...]:
        found = theirs(pixel_values=images)
        return found.masks_queries_logits, found.class_queries_logits

    error = max(float((one - other).abs().max()) for one, other in zip(run_ours(), run_theirs(), strict=True))
    return (*_in_turns(run_ours, run_theirs, device), error)


def _post_eomt(device: torch.device) -> tuple[float, float]:
    from transformers import EomtImageProcessor

    return _post(EomtImageProcessor(size={"shortest_edge": _SIDE, "longest_edge": _SIDE}), "stuff_classes", device)


def _post_mask2former(device: torch.device) -> tuple[float, float]:
    from transformers import Mask2FormerImageProcessor

    return _post(Mask2FormerImageProcessor(), "label_ids_to_fuse", device)


def _post(processor: Any, stuff: str, device: torch.device) -> tuple[float, float]:
    """Milliseconds of our merge and of a processor's, of the same masks."""
    cells = (_VGA[0] // _STRIDE, _VGA[1] // _STRIDE)
    masks, classes = (part.to(device) for part in blobs(_KEPT, cells, 200, 133))
    vocabulary = Vocabulary.build([CategorySpec(f"category {index}", is_thing=index < _THINGS) for index in range(133)])
    config = MergeConfig(object_threshold=0.5, overlap_threshold=0.8)
    outputs = SimpleNamespace(masks_queries_logits=masks[None], class_queries_logits=classes[None])
    settings = {"target_sizes": [_VGA], "threshold": 0.5, stuff: set(range(_THINGS, 133))}

    def theirs() -> object:
        with torch.no_grad():
            return processor.post_process_panoptic_segmentation(outputs, **settings)

    return _in_turns(lambda: merge_panoptic(masks, classes, vocabulary, _VGA, config), theirs, device)


def _in_turns(ours: Callable[[], object], theirs: Callable[[], object], device: torch.device) -> tuple[float, float]:
    """Medians in milliseconds of calls that take turns."""
    seconds: tuple[list[float], list[float]] = ([], [])
    for turn in range(_ROUNDS + 1):
        for call, times in zip((ours, theirs), seconds, strict=True):
            began = time.perf_counter()
            call()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            if turn:
                times.append(time.perf_counter() - began)
    return 1000 * statistics.median(seconds[0]), 1000 * statistics.median(seconds[1])
