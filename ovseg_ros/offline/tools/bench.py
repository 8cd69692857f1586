"""`ovseg bench`: how long the model call takes, and what the node adds to it.

Scopes, never mixed:

- *kernels*: what the GPU itself works in a model call, by PyTorch's profiler, so without its waits for the host;
  elsewhere not measured.
- *model call*: `PanopticSegmenter.segment`, uint8 image in, result on the host out.
- *callback to publish*: the real node in this process, from the start of its image callback to the return of the last
  publisher's call; see `ros/bench/in_process.py`.
- *query*: a client's call of `~/query` to its answer, of a phrase that is new and of one that was asked before.
- *camera stamp to a subscriber in another process*: camera, node and subscriber as processes; see `bench_delivery`.

Frames of the first three take turns, so that a change of clock rate or load meets them alike.
"""

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from tqdm import tqdm

from ovseg_ros.core.build import build_segmenter
from ovseg_ros.core.engine.options import EngineOptions
from ovseg_ros.core.errors import ConfigError, OvsegError
from ovseg_ros.core.model import Prompt
from ovseg_ros.core.own_thread import in_own_thread
from ovseg_ros.core.segmenter import PanopticSegmenter
from ovseg_ros.core.vocabulary import CategorySpec, Vocabulary, parse_vocabulary
from ovseg_ros.offline.evaluate.output import write_figures
from ovseg_ros.offline.measure_options import BenchOptions
from ovseg_ros.offline.tools.bench_delivery import HOW_TO_BUILD, delivered, soak, stamp_to_subscriber
from ovseg_ros.offline.tools.bench_engines import bench_engines, sweep_words
from ovseg_ros.offline.tools.bench_machine import kernel_seconds
from ovseg_ros.offline.tools.bench_peer_frames import peer_frames
from ovseg_ros.offline.tools.bench_peers import merge_against_transformers
from ovseg_ros.offline.tools.bench_plot import plot_report, require_matplotlib
from ovseg_ros.offline.tools.bench_report import print_comparison, print_delivery, print_report
from ovseg_ros.offline.tools.bench_times import describe_machine, scene_images, summary
from ovseg_ros.offline.tools.bench_turns import compare
from ovseg_ros.offline.tools.random_model import random_segmenter
from ovseg_ros.offline.words import say
from ovseg_ros.sim.categories import TABLETOP_SPECS

if TYPE_CHECKING:  # needs rclpy
    from ovseg_ros.ros.bench.in_process import RoundTimes

_PROFILED, _SWEPT = 5, 5  # frames
_SWEPT_MASKS = (5, 20, 60, 120)
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
    if options.plot is not None:
        require_matplotlib()
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    specs, frames, cameras = _specs(options, say), options.frames, options.cameras
    load_average = os.getloadavg()[0]  # of the last minute, before this run adds to it
    engines = [_engine(name, options) for name in options.engine]
    build_any = random_segmenter if options.random_weights else build_segmenter
    build = partial(build_any, options.preset, options.device)
    first, segmenter = in_own_thread("loading", lambda: _first_here(build, engines))
    images = scene_images(options.size, count=4)
    against = None
    if options.against is not None:
        # First of all, since it may fail, and before the node, so that the other's memory is free again.
        other = partial(build_any, options.against, options.device, replace(first, folder=None))
        against = _against(segmenter, options, other, specs, images)
    report: dict[str, Any] = {
        "preset": options.preset,
        "size": list(options.size),
        "frames": frames,
        "warmup": options.warmup,
        "cameras": cameras,
        "categories": len(specs),
        "machine": describe_machine(segmenter.device, load_average),
        "engine": segmenter.engine.line,
        "random_weights": options.random_weights,
        **measure(segmenter, specs, images, frames=frames, warmup=options.warmup, cameras=cameras),
    }
    if report["node"] is not None and not options.random_weights:
        seconds = report["model_call_ms"]["p50"] / 1000
        report["stamp_to_subscriber"] = stamp_to_subscriber(
            _node_parameters(options, first), images[0], model_seconds=seconds, frames=frames, cameras=cameras
        )
    if against is not None:
        report["against"] = against
    if len(engines) > 1:
        report["engines"] = bench_engines(
            build, options.preset, engines, specs, images, frames=frames, warmup=options.warmup, tell=say
        )
    if options.sweep:
        report["words"] = sweep_words(segmenter, images[0], rounds=_SWEPT)
        width, height = options.size
        merges = merge_against_transformers((height, width), _SWEPT_MASKS)
        report["merge"] = [row._asdict() for row in merges]
    if options.peers:
        report["peers"] = peer_frames(segmenter.device)
    write_figures(options.json, report)
    print_report(report)
    print_comparison(report)
    if options.plot is not None:
        plot_report(report, options.plot)
    return 0


def _against(
    segmenter: PanopticSegmenter,
    options: BenchOptions,
    build: Callable[[], PanopticSegmenter],
    specs: Sequence[CategorySpec],
    images: Sequence[np.ndarray],
) -> dict[str, Any]:
    """The comparison with another preset, which is built here; ConfigError, naming it, if that cannot be or take the
    words."""

    def prepared(one: PanopticSegmenter) -> tuple[PanopticSegmenter, Prompt]:
        return one, in_own_thread("text", lambda: one.prepare(Vocabulary.build(specs)))

    own = prepared(segmenter)
    try:
        other = prepared(in_own_thread("loading", build))
    except OvsegError as error:
        raise ConfigError(f"--against {options.against}: {error}") from error
    compared = compare(own, other, images, frames=options.frames, warmup=options.warmup)
    return {"preset": options.against, "engine": other[0].engine.line, **compared}


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
        print_delivery(f"{entry['model']}, profile {entry['profile']}", entry)
    return 0


def _bench_soak(options: BenchOptions, minutes: float) -> int:
    """Watch the node's memory under a camera at ten times the model's rate."""
    load_average = os.getloadavg()[0]
    vocabulary = Vocabulary.build(_specs(options, say))
    engine = _engine(options.engine[0], options)
    segmenter = build_segmenter(options.preset, options.device, engine)
    prompt = segmenter.prepare(vocabulary)
    image = scene_images(options.size, count=1)[0]
    seconds = float(np.median([_timed_call(segmenter, prompt, image) for _ in range(5)]))
    figures = soak(_node_parameters(options, engine), image, model_seconds=seconds, minutes=minutes)
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
        return {**_model_report(segmenter, prompt, images[0], times[warmup:]), "node": None, "node_reason": reason}
    bare, queries = [], []
    with NodeBench(segmenter, specs, cameras) as node:
        rounds: dict[str, list[RoundTimes]] = {name: [] for name in node.subscriptions}
        for index, image in enumerate(turns):
            bare.append(node.call(partial(_timed_call, segmenter, prompt, image)))
            for name, times_of_name in rounds.items():
                node.subscribe(name)
                times_of_name.append(node.run_round(image, NODE_TIMEOUT))
            queries.append([node.ask(f"red thing {index}", NODE_TIMEOUT) for _ in range(2)])
    median = float(np.median(bare[warmup:]))
    passes = {
        name: {"outputs": sorted(node.subscriptions[name]), **_node_report(times_of_name[warmup:], median)}
        for name, times_of_name in rounds.items()
    }
    new, known = zip(*queries[warmup:], strict=True)
    asked = {"new_words": summary(new), "known_words": summary(known)}
    return {**_model_report(segmenter, prompt, images[0], bare[warmup:]), "node": passes, "query_ms": asked}


def _specs(options: BenchOptions, tell: Callable[[str], None] | None = None) -> tuple[CategorySpec, ...]:
    return TABLETOP_SPECS if options.vocabulary is None else parse_vocabulary(options.vocabulary, tell=tell)


def _first_here(
    build: Callable[[EngineOptions], PanopticSegmenter], engines: Sequence[EngineOptions]
) -> tuple[EngineOptions, PanopticSegmenter]:
    """The first engine that runs here, which the comparison may name after others, and what it runs."""
    for options in engines[:-1]:
        try:
            return options, build(options)
        except ConfigError as error:
            say(f"not here: {error}")
    return engines[-1], build(engines[-1])


def _engine(name: str, options: BenchOptions) -> EngineOptions:
    engine, _, precision = name.partition(":")
    return EngineOptions(engine, precision or options.precision, options.engine_folder)


def _node_parameters(options: BenchOptions, engine: EngineOptions) -> dict[str, Any]:
    words = [spec.name for spec in _specs(options)]
    # A list of one might be the name of a bundled vocabulary.
    return {
        "preset": options.preset,
        "device": options.device,
        "engine": engine.engine,
        "precision": engine.precision,
        "engine_folder": str(engine.folder or ""),
        "vocabulary": [*words, ""],
    }


def _timed_call(segmenter: PanopticSegmenter, prompt: Prompt, image: np.ndarray) -> float:
    """Seconds from the image to the result, both on the host."""
    began = time.perf_counter()
    segmenter.segment(image, prompt)
    return time.perf_counter() - began


def _model_report(
    segmenter: PanopticSegmenter, prompt: Prompt, image: np.ndarray, times: Sequence[float]
) -> dict[str, Any]:
    kernels = [kernel_seconds(lambda: segmenter.segment(image, prompt), segmenter.device) for _ in range(_PROFILED)]
    known = [seconds for seconds in kernels if seconds is not None]
    return {"kernels_ms": summary(known) if known else None, "model_call_ms": summary(times)}


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
