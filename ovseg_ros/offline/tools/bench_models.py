"""The pass of a mask generator beside transformers' with the same weights, in one run."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import EomtConfig, EomtForUniversalSegmentation

from ovseg_ros.core.proposals.eomt.layouts import TRANSFORMERS
from ovseg_ros.core.proposals.eomt.network import EoMT, EoMTConfig
from ovseg_ros.core.proposals.published import published_eomt

SMALL = "tue-mps/coco_panoptic_eomt_small_640_2x"


@dataclass(frozen=True, slots=True)
class ModelPass:
    """One image through both networks.

    Attributes:
        ours_ms, theirs_ms: medians, milliseconds.
        largest_error: between their mask and class logits.
    """

    ours_ms: float
    theirs_ms: float
    largest_error: float


@torch.inference_mode()
def model_pass_against_transformers(
    device: torch.device, *, name: str = SMALL, dtype: torch.dtype = torch.float32, rounds: int = 10
) -> ModelPass:
    """An EoMT here and transformers' EomtForUniversalSegmentation, with the same random weights, in turns.

    Args:
        device: where both run.
        name: of the published EoMT on DINOv2 whose architecture is taken; nothing is read.
        dtype: of weights and activations.
        rounds: passes of each that are timed, after one that is not.

    Raises:
        ValueError: no published EoMT on DINOv2 without gated MLPs has that name.
    """
    published = published_eomt(name)
    if published is None or published.config.dinov3 or published.config.swiglu:
        raise ValueError(f"{name!r} is not the name of a published EoMT on DINOv2 with plain MLPs, such as {SMALL}")
    ours, theirs = same_networks(published.config)
    ours.on_canvas(*published.config.image_size)  # as in a proposer
    ours, theirs = ours.to(device, dtype), theirs.to(device, dtype)
    images = torch.randn(1, 3, *published.config.image_size, device=device, dtype=dtype)

    def run_ours() -> tuple[Tensor, ...]:
        found = ours(images)
        return found.mask_logits, found.class_logits

    def run_theirs() -> tuple[Tensor, ...]:
        found = theirs(pixel_values=images)
        return found.masks_queries_logits, found.class_queries_logits

    error = max(
        float((one - other).abs().max()) for one, other in zip(run_ours(), run_theirs(), strict=True)
    )  # warms both up
    milliseconds: tuple[list[float], list[float]] = ([], [])
    pairs = list(zip((run_ours, run_theirs), milliseconds, strict=True))
    for turn in range(rounds):
        for run, found in pairs if turn % 2 else reversed(pairs):  # the second of two finds the caches warmer
            found.append(_milliseconds(run, device))
    return ModelPass(statistics.median(milliseconds[0]), statistics.median(milliseconds[1]), error)


def same_networks(config: EoMTConfig) -> tuple[EoMT, EomtForUniversalSegmentation]:
    """An EoMT and transformers' of the same random weights, in evaluation mode, as published: masks annealed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        ours = EoMT(config).eval()
        theirs = EomtForUniversalSegmentation(
            EomtConfig(
                hidden_size=config.width,
                num_hidden_layers=config.depth,
                num_attention_heads=config.heads,
                image_size=config.image_size[0],
                patch_size=config.patch_size,
                num_register_tokens=config.register_tokens,
                num_queries=config.num_queries,
                num_blocks=config.joint_blocks,
                num_upscale_blocks=config.upscale_blocks,
                num_labels=config.num_classes,
            )
        ).eval()
    state, names = ours.state_dict(), TRANSFORMERS.keys(ours.state_dict())
    moved = {
        theirs_name: part
        for key, parts in names.items()
        for theirs_name, part in zip(parts, state[key].chunk(len(parts)), strict=True)
    }
    positions = names["encoder.pos_embed"][0]
    moved[positions] = moved[positions][0]
    missing, unexpected = theirs.load_state_dict(moved, strict=False)
    assert not unexpected and set(missing) <= TRANSFORMERS.ignored | {TRANSFORMERS.mask_probabilities}, missing
    theirs.attn_mask_probs.zero_()
    return ours, theirs


def _milliseconds(run: Callable[[], object], device: torch.device) -> float:
    """Of one call, its work on the device included."""
    _wait_for(device)
    began = time.perf_counter()
    run()
    _wait_for(device)
    return 1e3 * (time.perf_counter() - began)


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
