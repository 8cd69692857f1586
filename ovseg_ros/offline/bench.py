"""`ovseg bench`: how long the model call takes, and what the node adds to it.

Scopes, never mixed:

- *model call*: `PanopticSegmenter.segment`, uint8 image in, result on the host out.
- *callback to publish*: the real node in this process, from the start of its image callback to the return of the last
  publisher's call; see `bench_node`.

Frames of all scopes take turns, so that a change of clock rate or load meets them alike.
"""

import os
import platform
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import torch
from tqdm import tqdm

from ovseg_ros.core.build import build_segmenter
from ovseg_ros.core.segmenter import PanopticSegmenter
from ovseg_ros.core.types import TextEmbeddings
from ovseg_ros.core.vocabulary import CategorySpec, Vocabulary, parse_vocabulary
from ovseg_ros.offline.files import write_json
from ovseg_ros.sim.categories import TABLETOP_SPECS

if TYPE_CHECKING:  # needs rclpy
    from ovseg_ros.ros.bench_node import NodeBench

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
    segmenter = build_segmenter(preset, device)
    images = scene_images(size, count=4)
    report: dict[str, Any] = {
        "preset": preset,
        "size": list(size),
        "frames": frames,
        "warmup": warmup,
        "categories": len(specs),
        "machine": describe_machine(segmenter.device, load_average),
        **measure(segmenter, specs, images, frames=frames, warmup=warmup),
    }
    print_report(report)
    if json_path is not None:
        write_json(json_path, report)
        print(f"figures written to {json_path}", file=sys.stderr)
    return 0


def measure(
    segmenter: PanopticSegmenter,
    specs: Sequence[CategorySpec],
    images: Sequence[np.ndarray],
    *,
    frames: int,
    warmup: int,
) -> dict[str, Any]:
    """Times in milliseconds of every scope that this machine can run; `node` is None, with a reason, without ROS."""
    text = segmenter.encode_vocabulary(Vocabulary.build(specs))
    try:
        from ovseg_ros.ros.bench_node import NodeBench
    except ImportError as error:
        reason = (
            f"the node was not measured: {error}; build the package with colcon, source install/setup.bash and run "
            "again (rclpy and the built messages are needed)"
        )
        times = [_timed_call(segmenter, text, image) for image in _turns(images, warmup + frames, "model call")]
        return {"model_call_ms": summary(times[warmup:]), "node": None, "node_reason": reason}
    with NodeBench(segmenter, specs) as node:
        return _measure_with_node(segmenter, text, images, node, frames=frames, warmup=warmup)


def summary(seconds: Sequence[float]) -> dict[str, float]:
    """p50, p95, p99, mean, least in milliseconds."""
    values = {f"p{share}": np.percentile(seconds, share) for share in (50, 95, 99)}
    values |= {"mean": np.mean(seconds), "min": np.min(seconds)}
    return {name: round(1000 * float(value), 3) for name, value in values.items()}


def scene_images(size: tuple[int, int], count: int) -> list[np.ndarray]:
    """Tabletop scenes of the test split at (width, height), rendered at 320x240 and scaled."""
    from ovseg_ros.offline.tabletop_dataset import DatasetConfig, render_frames

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
    _print_row("model call", report["model_call_ms"])
    if report["node"] is None:
        print(report["node_reason"])
        return
    for name, entry in report["node"].items():
        _print_row(f"callback to publish, {name}", entry["callback_to_publish_ms"])
        _print_row("  its own part (less the model in it)", entry["own_ms"])
    for name, entry in report["node"].items():
        print(f"the node's own cost over the bare model, {name}: {entry['cost_ms']:.2f} ms (median over frames)")


def _measure_with_node(
    segmenter: PanopticSegmenter,
    text: TextEmbeddings,
    images: Sequence[np.ndarray],
    node: "NodeBench",
    *,
    frames: int,
    warmup: int,
) -> dict[str, Any]:
    bare: list[float] = []
    passes: dict[str, list[tuple[float, float]]] = {name: [] for name in node.subscriptions}
    for image in _turns(images, warmup + frames, "model call and node"):
        bare.append(_timed_call(segmenter, text, image))
        for name, pairs in passes.items():
            node.subscribe(name)
            pairs.append(node.run_frame(image, NODE_TIMEOUT))
    report: dict[str, Any] = {"model_call_ms": summary(bare[warmup:]), "node": {}}
    for name, pairs in passes.items():
        total, model = np.array(pairs[warmup:]).T
        report["node"][name] = {
            "outputs": sorted(node.subscriptions[name]),
            "callback_to_publish_ms": summary(total.tolist()),
            "model_call_in_node_ms": summary(model.tolist()),
            "own_ms": summary((total - model).tolist()),
            # Frame by frame in the node, so that the model's own spread cancels.
            "cost_ms": round(1000 * float(np.median(total - model)), 3),
            "median_difference_to_bare_ms": round(1000 * float(np.median(total) - np.median(bare[warmup:])), 3),
        }
    return report


def _turns(images: Sequence[np.ndarray], count: int, title: str) -> "tqdm[np.ndarray]":
    return tqdm([images[index % len(images)] for index in range(count)], desc=f"bench {title}", unit="frame")


def _timed_call(segmenter: PanopticSegmenter, text: TextEmbeddings, image: np.ndarray) -> float:
    began = time.perf_counter()
    segmenter.segment(image, text)
    return time.perf_counter() - began


def _print_row(title: str, row: dict[str, float]) -> None:
    print(f"{title:42}{row['p50']:9.2f}{row['p95']:9.2f}{row['p99']:9.2f}")


def _cpu_name() -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
