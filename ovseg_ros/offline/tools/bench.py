"""`ovseg bench`: how long the model call takes, and what the node adds to it.

Scopes, never mixed:

- *kernels*: on a GPU, between CUDA events around the model call; elsewhere not measured.
- *model call*: `PanopticSegmenter.segment`, uint8 image in, result on the host out.
- *callback to publish*: the real node in this process, from the start of its image callback to the return of the last
  publisher's call; see `ros/bench/in_process.py`.
- *camera stamp to a subscriber in another process*: camera, node and subscriber as processes; see `bench_delivery`.

Frames of the first three take turns, so that a change of clock rate or load meets them alike.
"""

import os
import platform
import sys
import time
from collections.abc import Sequence
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
from ovseg_ros.offline.data.files import write_json
from ovseg_ros.offline.tools.bench_delivery import delivered, soak, stamp_to_subscriber
from ovseg_ros.sim.categories import TABLETOP_SPECS

if TYPE_CHECKING:  # needs rclpy
    from ovseg_ros.ros.bench.in_process import NodeBench, RoundTimes

NODE_TIMEOUT = 60.0
"""Seconds after which a frame that the node has not published is given up."""


def bench(
    *,
    preset: str,
    size: tuple[int, int] = (640, 480),
    frames: int = 60,
    warmup: int = 5,
    vocabulary_text: str | None = None,
    device: str = "auto",
    threads: int | None = None,
    cameras: int = 1,
    json_path: Path | None = None,
) -> int:
    """Measure, print and write the figures; see docs/offline.md for the JSON.

    Args:
        preset: name of a preset or path of its YAML.
        size: (width, height) of the images, pixels.
        frames, warmup: timed frames of each scope, and untimed ones before them.
        vocabulary_text: "a,b,c" or a vocabulary file; None takes the tabletop's 100 words.
        device: "auto", "cpu", "cuda" or "cuda:N".
        threads: CPU threads for PyTorch; None leaves its own choice.
        cameras: how many send an image at once to the one node.
        json_path: where the figures go; None for nowhere.

    Returns:
        The exit code, 0.

    Raises:
        OvsegError: the preset or the vocabulary is wrong.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    specs = TABLETOP_SPECS if vocabulary_text is None else parse_vocabulary(vocabulary_text)
    load_average = os.getloadavg()[0]  # of the last minute, before this run adds to it
    segmenter = in_own_thread("loading", lambda: build_segmenter(preset, device))
    images = scene_images(size, count=4)
    report: dict[str, Any] = {
        "preset": preset,
        "size": list(size),
        "frames": frames,
        "warmup": warmup,
        "cameras": cameras,
        "categories": len(specs),
        "machine": describe_machine(segmenter.device, load_average),
        **measure(segmenter, specs, images, frames=frames, warmup=warmup, cameras=cameras),
    }
    if report["node"] is not None:
        report["stamp_to_subscriber"] = stamp_to_subscriber(
            node_parameters(preset, device, vocabulary_text),
            images[0],
            model_seconds=report["model_call_ms"]["p50"] / 1000,
            frames=frames,
            cameras=cameras,
        )
    print_report(report)
    return _finish(report, json_path)


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
    try:
        from ovseg_ros.ros.bench.in_process import NodeBench
    except ImportError as error:
        reason = (
            f"the node was not measured: {error}; build the package with colcon, source install/setup.bash and run "
            "again (rclpy and the built messages are needed)"
        )
        times = [_timed_call(segmenter, prompt, image) for image in _turns(images, warmup + frames, "model call")]
        return {**_model_report(times[warmup:]), "node": None, "node_reason": reason}
    with NodeBench(segmenter, specs, cameras) as node:
        return _measure_with_node(segmenter, prompt, images, node, frames=frames, warmup=warmup)


def bench_delivered(
    *, size: tuple[int, int], frames: int, cameras: int, rate: float, json_path: Path | None = None
) -> int:
    """Count the frames that arrive with and without the package's Fast DDS profile; the model is a stand-in.

    Raises:
        ConfigError: ROS or the built package is missing, or a process failed.
    """
    load_average = os.getloadavg()[0]
    image = scene_images(size, count=1)[0]
    report: dict[str, Any] = {
        "size": list(size),
        "cameras": cameras,
        "machine": describe_machine(torch.device("cpu"), load_average),
        # The default first: this process's middleware reads its profile once.
        "delivered": [delivered(image, rate=rate, frames=frames, cameras=cameras, profile=False)],
    }
    report["delivered"].append(delivered(image, rate=rate, frames=frames, cameras=cameras, profile=True))
    for entry in report["delivered"]:
        print_delivery(f"{entry['model']}, profile {entry['profile']}", entry)
    return _finish(report, json_path)


def bench_soak(
    *,
    preset: str,
    size: tuple[int, int],
    minutes: float,
    vocabulary_text: str | None = None,
    device: str = "auto",
    json_path: Path | None = None,
) -> int:
    """Watch the node's memory under a camera at ten times the model's rate; see docs/offline.md.

    Returns:
        The exit code: 0, or 1 where it grew by more than 2 % or a frame was published twice.

    Raises:
        OvsegError: the preset or the vocabulary is wrong, or a process failed.
    """
    load_average = os.getloadavg()[0]
    specs = TABLETOP_SPECS if vocabulary_text is None else parse_vocabulary(vocabulary_text)
    segmenter = build_segmenter(preset, device)
    prompt = segmenter.prepare(Vocabulary.build(specs))
    image = scene_images(size, count=1)[0]
    seconds = float(np.median([_timed_call(segmenter, prompt, image)[0] for _ in range(5)]))
    figures = soak(node_parameters(preset, device, vocabulary_text), image, model_seconds=seconds, minutes=minutes)
    report = {"preset": preset, "size": list(size), "machine": describe_machine(segmenter.device, load_average)}
    for name, value in figures.items():
        print(f"{name:42}{value}")
    _finish({**report, "soak": figures}, json_path)
    return int(figures["growth_percent"] > 2 or figures["published_twice"] > 0)


def node_parameters(preset: str, device: str, vocabulary_text: str | None) -> dict[str, Any]:
    """Of a node with this model and these words."""
    specs = TABLETOP_SPECS if vocabulary_text is None else parse_vocabulary(vocabulary_text)
    return {"preset": preset, "device": device, "vocabulary": [spec.name for spec in specs]}


def print_delivery(title: str, entry: dict[str, Any]) -> None:
    """What a subscriber got, on stdout."""
    latency = entry["latency_ms"]
    print(
        f"{title}: {entry['arrived']} of {entry['sent']} frames arrived ({entry['arrived_percent']} %) at "
        f"{entry['rate']} Hz; stamp to arrival {latency['p50']} ms p50, {latency['p95']} ms p95"
    )


def summary(seconds: Sequence[float]) -> dict[str, float]:
    """p50, p95, p99, mean, least in milliseconds."""
    values = {f"p{share}": np.percentile(seconds, share) for share in (50, 95, 99)}
    values |= {"mean": np.mean(seconds), "min": np.min(seconds)}
    return {name: round(1000 * float(value), 3) for name, value in values.items()}


def scene_images(size: tuple[int, int], count: int) -> list[np.ndarray]:
    """Tabletop scenes of the test split at (width, height), rendered at 320x240 and scaled."""
    from ovseg_ros.offline.data.tabletop_dataset import DatasetConfig, render_frames

    frames = render_frames(DatasetConfig("test", count))
    return [cv2.resize(frame.image, size, interpolation=cv2.INTER_CUBIC) for frame in frames]


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
    print(f"{'milliseconds':42}{'p50':>9}{'p95':>9}{'p99':>9}")
    if report["kernels_ms"] is None:
        print(f"{'kernels':42}{'not measured: there is no GPU':>27}")
    else:
        _print_row("kernels", report["kernels_ms"])
    _print_row("model call", report["model_call_ms"])
    if report["node"] is None:
        print(report["node_reason"])
        return
    for name, entry in report["node"].items():
        _print_row(f"callback to publish, {name}", entry["callback_to_publish_ms"])
        _print_row("  its own part (less the model in it)", entry["own_ms"])
    for name, entry in report["node"].items():
        print(f"the node's own cost over the bare model, {name}: {entry['cost_ms']:.2f} ms a frame (median)")
    print_delivery("camera stamp to a subscriber in another process", report["stamp_to_subscriber"])


def _measure_with_node(
    segmenter: PanopticSegmenter,
    prompt: Prompt,
    images: Sequence[np.ndarray],
    node: "NodeBench",
    *,
    frames: int,
    warmup: int,
) -> dict[str, Any]:
    bare: list[tuple[float, float]] = []
    passes: dict[str, list[RoundTimes]] = {name: [] for name in node.subscriptions}
    for image in _turns(images, warmup + frames, "model call and node"):
        bare.append(node.call(partial(_timed_call, segmenter, prompt, image)))
        for name, rounds in passes.items():
            node.subscribe(name)
            rounds.append(node.run_round(image, NODE_TIMEOUT))
    report: dict[str, Any] = {**_model_report(bare[warmup:]), "node": {}}
    for name, rounds in passes.items():
        timed = rounds[warmup:]
        # Round by round in the node, so that the model's own spread cancels.
        own = [(times.whole - times.model) / len(times.frames) for times in timed]
        per_frame = [times.whole / len(times.frames) for times in timed]
        bare_median = np.median([seconds for seconds, _ in bare[warmup:]])
        report["node"][name] = {
            "outputs": sorted(node.subscriptions[name]),
            "callback_to_publish_ms": summary([seconds for times in timed for seconds in times.frames]),
            "model_call_in_node_ms": summary([times.model / len(times.frames) for times in timed]),
            "own_ms": summary(own),
            "cost_ms": round(1000 * float(np.median(own)), 3),
            "median_difference_to_bare_ms": round(1000 * float(np.median(per_frame) - bare_median), 3),
        }
    return report


def _finish(report: dict[str, Any], json_path: Path | None) -> int:
    if json_path is not None:
        write_json(json_path, report)
        print(f"figures written to {json_path}", file=sys.stderr)
    return 0


def _turns(images: Sequence[np.ndarray], count: int, title: str) -> "tqdm[np.ndarray]":
    return tqdm([images[index % len(images)] for index in range(count)], desc=f"bench {title}", unit="frame")


def _timed_call(segmenter: PanopticSegmenter, prompt: Prompt, image: np.ndarray) -> tuple[float, float]:
    """Seconds of the call, and between the device's events around it; the latter NaN without a GPU."""
    on_gpu = segmenter.device.type == "cuda"
    events = [torch.cuda.Event(enable_timing=True) for _ in range(2)] if on_gpu else []
    began = time.perf_counter()
    for event in events[:1]:
        event.record()
    segmenter.segment(image, prompt)
    seconds = time.perf_counter() - began
    if not on_gpu:
        return seconds, float("nan")
    events[1].record()
    torch.cuda.synchronize(segmenter.device)
    return seconds, events[0].elapsed_time(events[1]) / 1000


def _model_report(times: Sequence[tuple[float, float]]) -> dict[str, Any]:
    calls, kernels = zip(*times, strict=True)
    return {"kernels_ms": None if np.isnan(kernels).any() else summary(kernels), "model_call_ms": summary(calls)}


def _print_row(title: str, row: dict[str, float]) -> None:
    print(f"{title:42}{row['p50']:9.2f}{row['p95']:9.2f}{row['p99']:9.2f}")


def _cpu_name() -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
