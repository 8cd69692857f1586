"""`ovseg bench`: how long the model call takes, and what the node adds to it.

Scopes, never mixed:

- *kernels*: on a GPU, between CUDA events around the model call; elsewhere not measured.
- *model call*: `PanopticSegmenter.segment`, uint8 image in, result on the host out.
- *callback to publish*: the real node in this process, from the start of its image callback to the return of the last
  publisher's call; see `ros/bench/in_process.py`.
- *query*: a client's call of `~/query` to its answer, of a phrase that is new and of one that was asked before.
- *camera stamp to a subscriber in another process*: camera, node and subscriber as processes; see `bench_delivery`.

Frames of the first three take turns, so that a change of clock rate or load meets them alike.
"""

import os
import platform
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import torch
from tqdm import tqdm

from ovseg_ros.core.build import build_segmenter
from ovseg_ros.core.model import Prompt
from ovseg_ros.core.own_thread import in_own_thread
from ovseg_ros.core.segmenter import PanopticSegmenter
from ovseg_ros.core.vocabulary import CategorySpec, Vocabulary, parse_vocabulary
from ovseg_ros.offline.evaluate.output import write_figures
from ovseg_ros.offline.options import BenchOptions
from ovseg_ros.offline.tools.bench_delivery import HOW_TO_BUILD, delivered, soak, stamp_to_subscriber
from ovseg_ros.offline.words import say
from ovseg_ros.sim.categories import TABLETOP_SPECS

if TYPE_CHECKING:  # needs rclpy
    from ovseg_ros.ros.bench.in_process import RoundTimes

NODE_TIMEOUT = 60.0
"""Seconds after which a frame that the node has not published is given up."""


def bench(options: BenchOptions) -> int:
    """Measure, print and write the figures; see docs/offline.md for the JSON.

    Returns:
        The exit code: 0, or 1 where the node's memory grew by more than 2 % or a frame was published twice.

    Raises:
        OvsegError: the preset or the vocabulary is wrong, ROS or the built package is missing, or a process failed.
    """
    if options.delivered:
        return _bench_delivered(options)
    return _bench_times(options) if options.soak is None else _bench_soak(options, options.soak)


def _bench_times(options: BenchOptions) -> int:
    """The model call and the node."""
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    specs, frames, cameras = _specs(options, say), options.frames, options.cameras
    load_average = os.getloadavg()[0]  # of the last minute, before this run adds to it
    segmenter = in_own_thread("loading", lambda: build_segmenter(options.preset, options.device))
    images = scene_images(options.size, count=4)
    report: dict[str, Any] = {
        "preset": options.preset,
        "size": list(options.size),
        "frames": frames,
        "warmup": options.warmup,
        "cameras": cameras,
        "categories": len(specs),
        "machine": describe_machine(segmenter.device, load_average),
        **measure(segmenter, specs, images, frames=frames, warmup=options.warmup, cameras=cameras),
    }
    if report["node"] is not None:
        seconds = report["model_call_ms"]["p50"] / 1000
        report["stamp_to_subscriber"] = stamp_to_subscriber(
            _node_parameters(options), images[0], model_seconds=seconds, frames=frames, cameras=cameras
        )
    write_figures(options.json, report)
    print_report(report)
    return 0


def _bench_delivered(options: BenchOptions) -> int:
    """Count the frames that arrive with and without the package's Fast DDS profile; the model is a stand-in."""
    load_average = os.getloadavg()[0]
    image = scene_images(options.size, count=1)[0]
    report: dict[str, Any] = {
        "size": list(options.size),
        "cameras": options.cameras,
        "machine": describe_machine(torch.device("cpu"), load_average),
        "delivered": [
            delivered(image, rate=options.rate, frames=options.frames, cameras=options.cameras, profile=profile)
            for profile in (False, True)  # the default first: this process's middleware reads its profile once
        ],
    }
    write_figures(options.json, report)
    for entry in report["delivered"]:
        _print_delivery(f"{entry['model']}, profile {entry['profile']}", entry)
    return 0


def _bench_soak(options: BenchOptions, minutes: float) -> int:
    """Watch the node's memory under a camera at ten times the model's rate."""
    load_average = os.getloadavg()[0]
    vocabulary = Vocabulary.build(_specs(options, say))
    segmenter = build_segmenter(options.preset, options.device)
    prompt = segmenter.prepare(vocabulary)
    image = scene_images(options.size, count=1)[0]
    seconds = float(np.median([_timed_call(segmenter, prompt, image)[0] for _ in range(5)]))
    figures = soak(_node_parameters(options), image, model_seconds=seconds, minutes=minutes)
    machine = describe_machine(segmenter.device, load_average)
    report = {"preset": options.preset, "size": list(options.size), "machine": machine, "soak": figures}
    write_figures(options.json, report)
    for name, value in figures.items():
        print(f"{name:42}{value}")
    return int(figures["growth_percent"] > 2 or figures["published_twice"] > 0)


def measure(
    segmenter: PanopticSegmenter,
    specs: Sequence[CategorySpec],
    images: Sequence[np.ndarray],
    *,
    frames: int,
    warmup: int,
    cameras: int = 1,
) -> dict[str, Any]:
    """Times in milliseconds of the scopes within this process; `node` is None, with a reason, without ROS."""
    prompt = in_own_thread("text", lambda: segmenter.prepare(Vocabulary.build(specs)))
    turns = tqdm([images[index % len(images)] for index in range(warmup + frames)], desc="bench", unit="frame")
    try:
        from ovseg_ros.ros.bench.in_process import NodeBench
    except ImportError as error:
        times = [_timed_call(segmenter, prompt, image) for image in turns]
        reason = f"the node was not measured: {error}; {HOW_TO_BUILD}"
        return {**_model_report(times[warmup:]), "node": None, "node_reason": reason}
    bare, queries = [], []
    with NodeBench(segmenter, specs, cameras) as node:
        rounds: dict[str, list[RoundTimes]] = {name: [] for name in node.subscriptions}
        for index, image in enumerate(turns):
            bare.append(node.call(partial(_timed_call, segmenter, prompt, image)))
            for name, times_of_name in rounds.items():
                node.subscribe(name)
                times_of_name.append(node.run_round(image, NODE_TIMEOUT))
            queries.append([node.ask(f"red thing {index}", NODE_TIMEOUT) for _ in range(2)])
    median = float(np.median([seconds for seconds, _ in bare[warmup:]]))
    passes = {
        name: {"outputs": sorted(node.subscriptions[name]), **_node_report(times_of_name[warmup:], median)}
        for name, times_of_name in rounds.items()
    }
    new, known = zip(*queries[warmup:], strict=True)
    asked = {"new_words": summary(new), "known_words": summary(known)}
    return {**_model_report(bare[warmup:]), "node": passes, "query_ms": asked}


def summary(seconds: Sequence[float]) -> dict[str, float]:
    """p50, p95, p99, mean, least in milliseconds."""
    values = {f"p{share}": np.percentile(seconds, share) for share in (50, 95, 99)}
    values |= {"mean": np.mean(seconds), "min": np.min(seconds)}
    return {name: round(1000 * float(value), 3) for name, value in values.items()}


def scene_images(size: tuple[int, int], count: int) -> list[np.ndarray]:
    """Tabletop scenes of the test split at (width, height), rendered at 320x240 and scaled."""
    from ovseg_ros.offline.data.tabletop_dataset import DatasetConfig, RenderedTabletop

    samples = RenderedTabletop(DatasetConfig("test", count))
    return [cv2.resize(sample.image, size, interpolation=cv2.INTER_CUBIC) for sample in samples]


def describe_machine(device: torch.device, load_average: float) -> dict[str, Any]:
    """What the figures depend on."""
    return {
        "cpu": _cpu_name(),
        "cores": len(os.sched_getaffinity(0)),
        "load_average": round(load_average, 2),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else str(device),
        "torch": torch.__version__,
        "torch_threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "rmw": os.environ.get("RMW_IMPLEMENTATION", "default"),
    }


def print_report(report: dict[str, Any]) -> None:
    """A readable table on stdout."""
    machine = report["machine"]
    width, height = report["size"]
    print(f"preset {report['preset']}, {width}x{height}, {report['categories']} categories, {report['frames']} frames")
    print(
        f"{machine['cpu']}, {machine['cores']} cores, load {machine['load_average']}, {machine['device']}, "
        f"torch {machine['torch']} with {machine['torch_threads']} threads"
    )
    if machine["load_average"] > machine["cores"] / 2:
        print(f"warning: the machine was busy before this run (load {machine['load_average']}); the times are too long")
    node = report["node"] or {}
    rows = [("kernels", report["kernels_ms"]), ("model call", report["model_call_ms"])]
    for name, entry in node.items():
        rows.append((f"callback to publish, {name}", entry["callback_to_publish_ms"]))
        rows.append(("  its own part (less the model in it)", entry["own_ms"]))
    for name, row in report.get("query_ms", {}).items():
        rows.append((f"query to answer, {name.replace('_', ' ')}", row))
    print(f"{'milliseconds':42}{'p50':>9}{'p95':>9}{'p99':>9}")
    for title, row in rows:
        values = [f"{row[share]:9.2f}" for share in ("p50", "p95", "p99")] if row else ["not measured: there is no GPU"]
        print(f"{title:42}{''.join(values):>27}")
    if not node:
        print(report["node_reason"])
        return
    for name, entry in node.items():
        print(f"the node's own cost over the bare model, {name}: {entry['cost_ms']:.2f} ms a frame (median)")
    _print_delivery("camera stamp to a subscriber in another process", report["stamp_to_subscriber"])


def _specs(options: BenchOptions, tell: Callable[[str], None] | None = None) -> tuple[CategorySpec, ...]:
    return TABLETOP_SPECS if options.vocabulary is None else parse_vocabulary(options.vocabulary, tell=tell)


def _node_parameters(options: BenchOptions) -> dict[str, Any]:
    words = [spec.name for spec in _specs(options)]
    # A list of one might be the name of a bundled vocabulary.
    return {"preset": options.preset, "device": options.device, "vocabulary": [*words, ""]}


def _timed_call(segmenter: PanopticSegmenter, prompt: Prompt, image: np.ndarray) -> tuple[float, float]:
    """Seconds of the call, and between the device's events around it; the latter NaN without a GPU."""
    if segmenter.device.type != "cuda":
        began = time.perf_counter()
        segmenter.segment(image, prompt)
        return time.perf_counter() - began, float("nan")
    first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    began = time.perf_counter()
    first.record()
    segmenter.segment(image, prompt)
    seconds = time.perf_counter() - began
    last.record()
    torch.cuda.synchronize(segmenter.device)
    return seconds, first.elapsed_time(last) / 1000


def _model_report(times: Sequence[tuple[float, float]]) -> dict[str, Any]:
    calls, kernels = zip(*times, strict=True)
    return {"kernels_ms": None if np.isnan(kernels).any() else summary(kernels), "model_call_ms": summary(calls)}


def _node_report(rounds: Sequence["RoundTimes"], bare_median: float) -> dict[str, Any]:
    # Round by round in the node, so that the model's own spread cancels.
    own = [(times.whole - times.model) / len(times.frames) for times in rounds]
    per_frame = [times.whole / len(times.frames) for times in rounds]
    return {
        "callback_to_publish_ms": summary([seconds for times in rounds for seconds in times.frames]),
        "model_call_in_node_ms": summary([times.model / len(times.frames) for times in rounds]),
        "own_ms": summary(own),
        "cost_ms": round(1000 * float(np.median(own)), 3),
        "median_difference_to_bare_ms": round(1000 * float(np.median(per_frame) - bare_median), 3),
    }


def _print_delivery(title: str, entry: dict[str, Any]) -> None:
    latency = entry["latency_ms"]
    print(
        f"{title}: {entry['arrived']} of {entry['sent']} frames arrived ({entry['arrived_percent']} %) at "
        f"{entry['rate']} Hz; stamp to arrival {latency['p50']} ms p50, {latency['p95']} ms p95"
    )


def _cpu_name() -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
