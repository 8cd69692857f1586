"""Engines in turns on the same frames: the model call, the GPU's own work in it, and how that grows with words."""

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from ovseg_ros.core.engine.options import EngineOptions
from ovseg_ros.core.errors import ConfigError
from ovseg_ros.core.model import Prompt
from ovseg_ros.core.segmenter import PanopticSegmenter
from ovseg_ros.core.vocabulary import CategorySpec, Vocabulary
from ovseg_ros.offline.tools.bench_machine import kernel_seconds, memory, peak_rates, waits_of
from ovseg_ros.offline.tools.bench_times import summary
from ovseg_ros.offline.tools.bench_turns import in_turns
from ovseg_ros.offline.tools.count_frame import count_frame

SWEPT_WORDS = (10, 150, 847, 1203, 10_000)
BATCHES = (1, 4)
_DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


def bench_engines(
    build: Callable[[EngineOptions], PanopticSegmenter],
    preset: str,
    engines: Sequence[EngineOptions],
    specs: Sequence[CategorySpec],
    images: Sequence[np.ndarray],
    *,
    frames: int,
    warmup: int,
    tell: Callable[[str], None],
) -> list[dict[str, Any]]:
    """An entry for each engine, in their order; one that does not run here has `unavailable`, its reason, alone.

    Frames take turns between the engines, so that a change of clock rate or load meets them alike.
    """
    entries: list[dict[str, Any]] = []
    running: list[tuple[dict[str, Any], PanopticSegmenter, Prompt]] = []
    for options in engines:
        entry: dict[str, Any] = {"engine": options.engine, "precision": options.precision}
        entries.append(entry)
        began = time.perf_counter()
        try:
            segmenter = build(options)
        except ConfigError as error:
            entry["unavailable"] = str(error)
            continue
        prompt = segmenter.prepare(Vocabulary.build(specs))
        segmenter.segment(images[0], prompt)
        entry["start_seconds"] = round(time.perf_counter() - began, 2)
        entry |= {"engine": segmenter.engine.engine, "precision": segmenter.engine.precision}
        tell(segmenter.engine.line)
        running.append((entry, segmenter, prompt))
    pairs = [(segmenter, prompt) for _, segmenter, prompt in running]
    seconds = in_turns(pairs, images, frames=frames, warmup=warmup, title="engines")
    for (entry, segmenter, prompt), times in zip(running, seconds, strict=True):
        entry |= _figures(preset, segmenter, prompt, images, len(specs), times)
    return entries


def _figures(
    preset: str,
    segmenter: PanopticSegmenter,
    prompt: Prompt,
    images: Sequence[np.ndarray],
    words: int,
    times: Sequence[float],
) -> dict[str, Any]:
    device, dtype = segmenter.device, _DTYPES[segmenter.engine.precision]
    peak = peak_rates(device, dtype)
    height, width = images[0].shape[:2]
    flops = count_frame(preset, (width, height), words)["flops"]
    kernels = kernel_seconds(lambda: segmenter.segment(images[0], prompt), device)
    busy = float(np.median(times)) if kernels is None else kernels
    return {
        "model_call_ms": summary(times),
        "kernels_ms": None if kernels is None else round(1000 * kernels, 3),
        "waits": waits_of(lambda: segmenter.segment(images[0], prompt), device),
        "gflop": round(flops / 1e9, 2),
        "peak": peak,
        "share_of_peak_percent": round(100 * flops / busy / 1e12 / peak["matmul_tflops"], 1),
        "batch_ms_per_image": {str(size): _batch(segmenter, prompt, images[0], size) for size in BATCHES},
        "memory": memory(device),
    }


def _batch(segmenter: PanopticSegmenter, prompt: Prompt, image: np.ndarray, size: int) -> float:
    """Milliseconds an image, of so many at once."""
    times = []
    for _ in range(4):
        began = time.perf_counter()
        segmenter.segment_batch([image] * size, prompt)
        times.append(time.perf_counter() - began)
    return round(1000 * float(np.median(times[1:])) / size, 3)


def sweep_words(segmenter: PanopticSegmenter, image: np.ndarray, *, rounds: int) -> list[dict[str, Any]]:
    """Milliseconds of a frame under vocabularies of different sizes, which take turns, and of making them ready."""
    prompts, prepared = [], []
    for count in SWEPT_WORDS:
        specs = [CategorySpec(f"thing {index}") for index in range(count)]
        began = time.perf_counter()
        prompts.append(segmenter.prepare(Vocabulary.build(specs, max_categories=count)))
        prepared.append(time.perf_counter() - began)
    seconds: list[list[float]] = [[] for _ in prompts]
    for index in range(rounds + 1):
        for prompt, times in zip(prompts, seconds, strict=True):
            began = time.perf_counter()
            segmenter.segment(image, prompt)
            if index:
                times.append(time.perf_counter() - began)
    return [
        {"words": count, "model_call_ms": summary(times), "prepare_ms": round(1000 * first, 1)}
        for count, times, first in zip(SWEPT_WORDS, seconds, prepared, strict=True)
    ]
