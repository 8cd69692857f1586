"""Segmenters that take turns on the same frames, so that a change of clock rate or load meets them alike."""

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from tqdm import tqdm

from ovseg_ros.core.model import Prompt
from ovseg_ros.core.segmenter import PanopticSegmenter
from ovseg_ros.offline.tools.bench_times import summary

Running = tuple[PanopticSegmenter, Prompt]


def in_turns(
    running: Sequence[Running], images: Sequence[np.ndarray], *, frames: int, warmup: int, title: str
) -> list[list[float]]:
    """Seconds of each segmenter's calls, `frames` of each, after `warmup` untimed ones.

    Every other round goes backwards, since a frame that another has just read is in the caches.
    """
    seconds: list[list[float]] = [[] for _ in running]
    for index in tqdm(range(warmup + frames), desc=title, unit="frame"):
        turns = list(zip(running, seconds, strict=True))
        for (segmenter, prompt), times in turns if index % 2 == 0 else reversed(turns):
            began = time.perf_counter()
            segmenter.segment(images[index % len(images)], prompt)
            if index >= warmup:
                times.append(time.perf_counter() - began)
    return seconds


def compare(own: Running, other: Running, images: Sequence[np.ndarray], *, frames: int, warmup: int) -> dict[str, Any]:
    """Milliseconds of two presets' model calls, and how long the own one takes of the other's time.

    That is of each image's median, added up, so that neither one slow call nor one image decides.
    """
    times = in_turns([own, other], images, frames=frames, warmup=warmup, title="presets")
    places = (np.arange(frames) + warmup) % len(images)
    totals = [
        sum(float(np.median(np.asarray(seconds)[places == place])) for place in np.unique(places)) for seconds in times
    ]
    return {"own_ms": summary(times[0]), "other_ms": summary(times[1]), "ratio": round(totals[0] / totals[1], 3)}
