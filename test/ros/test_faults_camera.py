"""A camera that dies and comes back, and one that is far too fast for the model.

OVSEG_SOAK_SECONDS makes the second test as long as one likes; `ovseg bench --soak MINUTES` does the same with the real
model and reports the figures.
"""

import os
import signal
import time
from pathlib import Path

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from ros_support import Peer, Processes, stamp_of, wait_until
from sensor_msgs.msg import Image

from ovseg_ros.msg import PanopticSegmentation
from ovseg_ros.ros.node.memory import host_memory

SOAK_SECONDS = float(os.environ.get("OVSEG_SOAK_SECONDS", "4"))
GROWTH = 1.02
FAST_CAMERA = Path(__file__).parent / "fast_camera.py"


def test_a_killed_camera_is_missed_and_welcomed_back(processes: Processes, peer: Peer, tiny_preset: Path) -> None:
    node = processes.start("segment_node", preset=str(tiny_preset), vocabulary=["cup"], image_timeout=1.0)
    camera = processes.start(FAST_CAMERA, rate=10.0)
    peer.wait_until_active(node)
    with (
        peer.collect(PanopticSegmentation, "/ovseg/segments") as segments,
        peer.collect(DiagnosticArray, "/diagnostics") as diagnostics,
    ):

        def messages_of_camera() -> list[str]:
            return [
                status.message
                for message in diagnostics
                for status in message.status
                if "camera" in status.name and status.level == DiagnosticStatus.WARN
            ]

        peer.wait_until(lambda: segments, "segments", node)
        camera.kill()
        peer.wait_until(lambda: any("no image for" in m for m in messages_of_camera()), "a warning", node)
        assert any("/image" in message for message in messages_of_camera())
        segments.clear()
        processes.start(FAST_CAMERA, rate=10.0)
        peer.wait_until(lambda: len(segments) >= 3, "segments of the new camera", node)
        node.wait_for_output("images arrive on /image")
        diagnostics.clear()
        peer.wait_until(lambda: diagnostics, "diagnostics")
        assert len({stamp_of(message) for message in segments}) == len(segments)
    assert node.interrupt(signal.SIGTERM) == 0, node.output
    assert "Traceback" not in node.output


def test_memory_stays_flat_under_a_camera_ten_times_too_fast(
    processes: Processes, peer: Peer, tiny_preset: Path
) -> None:
    node = processes.start("segment_node", preset=str(tiny_preset), vocabulary=["cup", "floor"], max_rate=10.0)
    processes.start(FAST_CAMERA, rate=100.0, width=320, height=240)
    peer.wait_until_active(node)
    with (
        peer.collect(PanopticSegmentation, "/ovseg/segments") as segments,
        peer.collect(Image, "/ovseg/label_image"),
        peer.collect(Image, "/ovseg/overlay_image"),
    ):
        peer.wait_until(lambda: len(segments) >= 20, "the warm-up", node)
        before = host_memory(node.pid)
        end = time.monotonic() + SOAK_SECONDS
        wait_until(lambda: time.monotonic() > end, "end", node, peer.spin, SOAK_SECONDS + 60)
        after = host_memory(node.pid)
        assert len({stamp_of(message) for message in segments}) == len(segments)
    assert after <= GROWTH * before, f"{before} -> {after} bytes in {SOAK_SECONDS} s"
    assert node.interrupt(signal.SIGTERM) == 0, node.output
    assert "Traceback" not in node.output
