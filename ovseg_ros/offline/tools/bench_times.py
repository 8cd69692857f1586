"""What all benchmarks share: summaries of times, pictures to segment, and what the figures depend on."""

import os
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch


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


def _cpu_name() -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
