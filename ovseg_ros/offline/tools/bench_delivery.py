"""The parts of `ovseg bench` that run camera, node and subscriber as processes of their own.

- *camera stamp to a subscriber in another process*: with the preset's model, at a rate that it can keep up with.
- *delivered frames*: with a stand-in for the model that returns at once: node and middleware are measured alone.
- *soak*: a camera at ten times the model's rate, for minutes, and what becomes of the node's memory.
"""

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from ovseg_ros.core.errors import ConfigError

if TYPE_CHECKING:  # needs rclpy
    from ovseg_ros.ros.bench.processes import BenchProcesses

HOW_TO_BUILD = (
    "build the package with colcon, source install/setup.bash and run again (rclpy and the built messages are needed)"
)
_SETTLE = 2.0
"""Seconds after the first frames before any counts."""


def stamp_to_subscriber(
    parameters: Mapping[str, Any], image: np.ndarray, *, model_seconds: float, frames: int, cameras: int
) -> dict[str, Any]:
    """Latency from the camera's stamp to the arrival of ~/label_image in another process, in milliseconds.

    The cameras together send at 0.7 times the rate that the model allows, so that no frame waits for another.
    """
    rate = min(30.0, 0.7 / model_seconds / cameras)
    with _processes(parameters, image, rate, cameras, profile=True) as running:
        return {"rate": round(rate, 2), **_counted(running, seconds=frames / rate)}


def delivered(image: np.ndarray, *, rate: float, frames: int, cameras: int, profile: bool) -> dict[str, Any]:
    """Share of best-effort frames whose ~/label_image arrives in another process; the model is a stand-in."""
    with _processes({"vocabulary": ["anything"]}, image, rate, cameras, profile) as running:
        return {
            "model": "stand-in that returns at once",
            "rate": rate,
            "profile": "fastdds_shm.xml" if profile else "as in the environment",
            **_counted(running, seconds=frames / rate),
        }


def soak(parameters: Mapping[str, Any], image: np.ndarray, *, model_seconds: float, minutes: float) -> dict[str, Any]:
    """Memory of the node under a camera at ten times the model's rate: after a fifth of the time, and until the end."""
    rate = min(10.0 / model_seconds, 200.0)
    with _processes(parameters, image, rate, 1, profile=True) as running:
        warm_up = 60 * minutes / 5
        running.spin(warm_up)
        running.forget()
        samples = [running.node_memory]
        end = time.monotonic() + 60 * minutes - warm_up
        while time.monotonic() < end:
            running.spin(min(5.0, max(0.0, end - time.monotonic())))
            samples.append(running.node_memory)
        return {
            "minutes": minutes,
            "camera_rate": round(rate, 1),
            "memory_after_warm_up_mb": round(samples[0] / 1e6, 1),
            "memory_largest_mb": round(max(samples) / 1e6, 1),
            "memory_at_end_mb": round(samples[-1] / 1e6, 1),
            "growth_percent": round(100 * (samples[-1] / samples[0] - 1), 2),
            "published": sum(len(received.latencies) for received in running.received.values()),
            "published_twice": sum(received.repeated for received in running.received.values()),
            "received_by_node": int(running.diagnostics["frames received"]),
            "dropped_by_node": int(running.diagnostics["frames dropped"]),
        }


def _counted(running: "BenchProcesses", seconds: float) -> dict[str, Any]:
    running.spin(_SETTLE)
    running.forget()
    running.spin(seconds)
    shares = running.shares()
    latencies = [latency for received in running.received.values() for latency in received.latencies.values()]
    sent, arrived = sum(total for _, total in shares.values()), sum(count for count, _ in shares.values())
    return {
        "sent": sent,
        "arrived": arrived,
        "arrived_percent": round(100 * arrived / sent, 2) if sent else 0.0,
        "arrived_twice": sum(received.repeated for received in running.received.values()),
        "latency_ms": {
            f"p{share}": round(1000 * float(np.percentile(latencies, share)), 2) if latencies else None
            for share in (50, 95, 99)
        },
    }


def _processes(
    parameters: Mapping[str, Any], image: np.ndarray, rate: float, cameras: int, profile: bool = False
) -> "BenchProcesses":
    try:
        from ovseg_ros.ros.bench.processes import BenchProcesses
    except ImportError as error:
        raise ConfigError(f"processes cannot be measured: {error}; {HOW_TO_BUILD}") from error
    return BenchProcesses(parameters, image=image, rate=rate, cameras=cameras, profile=profile)
