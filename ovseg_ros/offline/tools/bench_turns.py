"""Segmenters that take turns on the same frames, so that a change of clock rate or load meets them alike."""

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from tqdm import tqdm

from ovseg_ros.core.model import Prompt
from ovseg_ros.core.segmenter import PanopticSegmenter
from ovseg_ros.core.vocabulary import CategorySpec, Vocabulary
from ovseg_ros.offline.tools.bench_times import summary


def in_turns(
    running: Sequence[tuple[PanopticSegmenter, Prompt]],
    images: Sequence[np.ndarray],
    *,
    frames: int,
    warmup: int,
    title: str,
) -> list[list[float]]:
    """Seconds of each segmenter's calls, `frames` of each, after `warmup` untimed ones."""
    seconds: list[list[float]] = [[] for _ in running]
    for index in tqdm(range(warmup + frames), desc=title, unit="frame"):
        for (segmenter, prompt), times in zip(running, seconds, strict=True):
            began = time.perf_counter()
            segmenter.segment(images[index % len(images)], prompt)
            if index >= warmup:
                times.append(time.perf_counter() - began)
    return seconds


def bench_against(
    segmenter: PanopticSegmenter,
    other: PanopticSegmenter,
    specs: Sequence[CategorySpec],
    images: Sequence[np.ndarray],
    *,
    frames: int,
    warmup: int,
) -> dict[str, Any]:
    """Milliseconds of two presets' model calls, and the median over the frames of own time / the other's."""
    running = [(one, one.prepare(Vocabulary.build(specs))) for one in (segmenter, other)]
    own, others = in_turns(running, images, frames=frames, warmup=warmup, title="presets")
    return {
        "model_call_ms": summary(own),
        "other_model_call_ms": summary(others),
        "paired_ratio": round(float(np.median(np.divide(own, others))), 3),
    }
