"""`ovseg bench` with a tiny segmenter: the model call anywhere, the node where ROS and the built messages are."""

import importlib.util
import json
import sys
import tempfile
import time

import numpy as np
import pytest

from ovseg_ros.core.errors import ConfigError, VocabularyError
from ovseg_ros.core.vocabulary import CategorySpec
from ovseg_ros.offline.cli.main import main
from ovseg_ros.offline.tools import bench, bench_delivery, bench_turns

SPECS = (CategorySpec("cup"), CategorySpec("wall", is_thing=False))
IMAGES = [np.zeros((48, 64, 3), dtype=np.uint8), np.full((48, 64, 3), 200, dtype=np.uint8)]
HAS_NODE = importlib.util.find_spec("rclpy") is not None and importlib.util.find_spec("ovseg_ros.msg") is not None


def test_without_ros_the_model_call_is_measured_and_the_reason_is_given(monkeypatch, tiny_segmenter):
    monkeypatch.setitem(sys.modules, "rclpy", None)
    monkeypatch.delitem(sys.modules, "ovseg_ros.ros.bench.in_process", raising=False)
    report = bench.measure(tiny_segmenter, SPECS, IMAGES, frames=4, warmup=1)
    assert report["node"] is None and "colcon" in report["node_reason"]
    assert report["kernels_ms"] is None  # there is no GPU, and nothing is made up
    times = report["model_call_ms"]
    assert 0 < times["min"] <= times["p50"] <= times["p95"] <= times["p99"]


@pytest.mark.skipif(not HAS_NODE, reason="needs rclpy and the package built by colcon")
def test_the_real_node_is_measured_with_and_without_overlays(tiny_segmenter):
    report = bench.measure(tiny_segmenter, SPECS, IMAGES, frames=4, warmup=1)
    without, with_overlays = report["node"]["without overlays"], report["node"]["with overlays"]
    assert without["outputs"] == ["confidence_image", "label_image", "segment_image", "segments"]
    assert set(with_overlays["outputs"]) == {*without["outputs"], "overlay_image", "overlay_image/compressed"}
    tracked = report["node"]["without overlays, with tracking"]
    assert tracked["outputs"] == without["outputs"]
    for entry in (without, tracked, with_overlays):
        assert 0 < entry["cost_ms"] < entry["callback_to_publish_ms"]["p99"]
        assert entry["model_call_in_node_ms"]["p50"] < entry["callback_to_publish_ms"]["p50"]
    assert all(report["query_ms"][words]["min"] > 0 for words in ("new_words", "known_words"))


@pytest.mark.skipif(not HAS_NODE, reason="needs rclpy and the package built by colcon")
def test_four_cameras_share_the_node(tiny_segmenter):
    report = bench.measure(tiny_segmenter, SPECS, IMAGES, frames=3, warmup=1, cameras=4)
    for entry in report["node"].values():
        assert 0 < entry["cost_ms"] < entry["callback_to_publish_ms"]["p99"]
        # Frames of one CPU follow one another: the last of four waits for three others.
        assert entry["callback_to_publish_ms"]["p99"] > 2 * entry["model_call_in_node_ms"]["min"]


@pytest.mark.skipif(not HAS_NODE, reason="needs rclpy and the package built by colcon")
def test_frames_are_counted_through_processes(monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    image = np.full((48, 64, 3), 200, dtype=np.uint8)
    figures = bench_delivery.delivered(image, rate=20.0, frames=20, cameras=2, profile=False)
    assert figures["model"].startswith("stand-in")
    assert 0 < figures["arrived"] <= figures["sent"] and figures["arrived_twice"] == 0
    assert 0 < figures["latency_ms"]["p50"] <= figures["latency_ms"]["p95"]
    assert not list(tmp_path.glob("ovseg_bench_*"))


@pytest.mark.skipif(not HAS_NODE, reason="needs rclpy and the package built by colcon")
def test_nothing_stays_behind_after_ctrl_c(monkeypatch, tmp_path):
    from ovseg_ros.ros.bench.processes import BenchProcesses

    def stopped(self, *_):
        assert list(tmp_path.glob("ovseg_bench_*"))
        started.extend(self._processes.values())
        raise KeyboardInterrupt

    started = []
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(BenchProcesses, "wait", stopped)
    with pytest.raises(KeyboardInterrupt):
        bench_delivery.delivered(IMAGES[0], rate=20.0, frames=20, cameras=1, profile=False)
    assert started and all(process.poll() is not None for process in started)
    assert not list(tmp_path.glob("ovseg_bench_*"))


def test_processes_need_ros_and_say_so(monkeypatch):
    monkeypatch.setitem(sys.modules, "rclpy", None)
    monkeypatch.delitem(sys.modules, "ovseg_ros.ros.bench.processes", raising=False)
    with pytest.raises(ConfigError, match="colcon"):
        bench_delivery.delivered(IMAGES[0], rate=20.0, frames=1, cameras=1, profile=False)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--plot", "{folder}/b.png"], "it draws several engines, and what --sweep finds"),
        (["--sweep", "--plot", "{folder}/b.png"], "--plot needs matplotlib, which is not installed"),
        (["--soak", "1", "--against", "tabletop_fisa"], "--against would change nothing: --soak watches one camera"),
        (["--sweep", "--plot", "{folder}/b.txt"], "b.txt' does not end in .png, .pdf or .svg"),
    ],
)
def test_what_cannot_be_shown_is_refused_before_it_is_measured(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(bench, "build_segmenter", None)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    try:
        assert main(["bench", *(argument.format(folder=tmp_path) for argument in arguments)]) == 2
    except SystemExit as refused:  # of argparse
        assert refused.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.skipif(not HAS_NODE, reason="needs rclpy and the package built by colcon")
def test_of_random_weights_what_needs_a_process_is_not_measured(monkeypatch, tiny_segmenter, capsys):
    monkeypatch.setattr(bench, "random_segmenter", lambda preset, device, options: tiny_segmenter)
    monkeypatch.setattr(bench, "scene_images", lambda size, count: IMAGES)
    assert main(["bench", "--frames", "1", "--warmup", "1", "--vocabulary", "cup, wall", "--random-weights"]) == 0
    assert "subscriber in another process: not measured with random weights" in capsys.readouterr().out


def test_a_comparison_goes_on_without_the_engines_that_are_not_here(tmp_path, monkeypatch, tiny_segmenter, capsys):
    def build(preset, device, options):
        if options.engine == "cuda_graph":
            raise ConfigError("engine cuda_graph cannot run on cpu: no CUDA device")
        return tiny_segmenter

    monkeypatch.setattr(bench, "build_segmenter", build)
    monkeypatch.setattr(bench, "scene_images", lambda size, count: IMAGES)
    monkeypatch.setitem(sys.modules, "rclpy", None)
    monkeypatch.delitem(sys.modules, "ovseg_ros.ros.bench.in_process", raising=False)
    arguments = ["bench", "--frames", "1", "--warmup", "1", "--vocabulary", "cup"]
    assert main([*arguments, "--engine", "cuda_graph,eager", "--json", str(tmp_path / "b.json")]) == 0
    missing, ran = json.loads((tmp_path / "b.json").read_text())["engines"]
    assert "no CUDA device" in missing["unavailable"]
    assert ran["model_call_ms"]["p50"] > 0
    assert "engine cuda_graph, auto: not here: engine cuda_graph cannot run on cpu" in capsys.readouterr().out


def test_two_presets_take_turns(tmp_path, monkeypatch, tiny_segmenter, capsys):
    built, called = [], []

    class Slower:
        """The same, and a tenth of a second."""

        engine = tiny_segmenter.engine

        def prepare(self, vocabulary):
            return tiny_segmenter.prepare(vocabulary)

        def segment(self, image, prompt):
            called.append("slower")
            time.sleep(0.1)
            return tiny_segmenter.segment(image, prompt)

    def build(preset, device, options):
        built.append((preset, device, options.precision))
        return tiny_segmenter if preset == "tabletop" else Slower()

    monkeypatch.setattr(bench, "build_segmenter", build)
    monkeypatch.setattr(bench, "scene_images", lambda size, count: IMAGES)
    monkeypatch.setitem(sys.modules, "rclpy", None)
    monkeypatch.delitem(sys.modules, "ovseg_ros.ros.bench.in_process", raising=False)
    arguments = ["bench", "--frames", "3", "--warmup", "1", "--vocabulary", "cup, wall", "--against", "old.yaml"]
    assert main([*arguments, "--device", "cpu", "--precision", "float32", "--json", str(tmp_path / "b.json")]) == 0
    assert built == [("tabletop", "cpu", "float32"), ("old.yaml", "cpu", "float32")]
    assert len(called) == 4
    against = json.loads((tmp_path / "b.json").read_text())["against"]
    assert against["preset"] == "old.yaml"
    assert against["other_ms"]["min"] > 100  # milliseconds
    assert 0 < against["ratio"] < 1
    shown = f"by turns: tabletop {against['own_ms']['p50']} ms p50, old.yaml"
    assert shown in capsys.readouterr().out


def test_another_preset_that_cannot_take_the_words_is_named_at_once(monkeypatch, tiny_segmenter, capsys):
    class Closed:
        def prepare(self, vocabulary):
            raise VocabularyError("none of the words is a class")

    monkeypatch.setattr(bench, "build_segmenter", lambda name, *_: tiny_segmenter if name == "tabletop" else Closed())
    monkeypatch.setattr(bench, "scene_images", lambda size, count: IMAGES)
    monkeypatch.setattr(bench, "measure", None)
    assert main(["bench", "--vocabulary", "cup", "--against", "closed"]) == 2
    assert "--against closed: none of the words is a class" in capsys.readouterr().err


def test_the_share_is_of_each_image_s_median(monkeypatch):
    """Two images; own 1 s and 4 s, the other's 2 s and 4 s, and one slow call of each."""
    own, other = [1.0, 4.0, 1.0, 99.0, 1.0, 4.0], [2.0, 4.0, 50.0, 4.0, 2.0, 4.0]
    monkeypatch.setattr(bench_turns, "in_turns", lambda *_, **__: [own, other])
    assert bench_turns.compare(None, None, IMAGES, frames=6, warmup=1)["ratio"] == round(5 / 6, 3)


def test_the_command_writes_json_and_names_the_machine(tmp_path, monkeypatch, tiny_segmenter, capsys):
    monkeypatch.setattr(bench, "build_segmenter", lambda preset, device, options: tiny_segmenter)
    monkeypatch.setattr(bench, "scene_images", lambda size, count: IMAGES)
    monkeypatch.setitem(sys.modules, "rclpy", None)
    monkeypatch.delitem(sys.modules, "ovseg_ros.ros.bench.in_process", raising=False)
    arguments = ["bench", "--frames", "3", "--warmup", "1", "--vocabulary", "cup, wall"]
    assert main([*arguments, "--json", str(tmp_path / "b.json")]) == 0
    report = json.loads((tmp_path / "b.json").read_text())
    assert report["categories"] == 2 and report["machine"]["torch_threads"] >= 1 and report["machine"]["cpu"]
    assert "model call" in capsys.readouterr().out
