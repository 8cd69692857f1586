"""What the machine at hand can do at best, measured in the same minute as what is compared with it."""

import resource
import time
from collections.abc import Callable

import psutil
import torch

_SECONDS = 0.3  # of each measurement
_SIDE = {"cpu": 1024, "cuda": 8192}
_COPIED = {"cpu": 1 << 26, "cuda": 1 << 30}  # bytes


def peak_rates(device: torch.device, dtype: torch.dtype) -> dict[str, float]:
    """The best of repeated square matrix products, `matmul_tflops`, and of copies within memory, `copy_gb_per_s`."""
    side = _SIDE[device.type]
    left, right = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    product = torch.empty_like(left)
    source = torch.zeros(_COPIED[device.type] // 4, device=device)
    copy = torch.empty_like(source)
    multiplied = _best(lambda: torch.mm(left, right, out=product), device)
    copied = _best(lambda: copy.copy_(source), device)
    return {
        "matmul_tflops": round(2 * side**3 / multiplied / 1e12, 3),
        "copy_gb_per_s": round(2 * source.nbytes / copied / 1e9, 2),  # read and written
    }


def kernel_seconds(run: Callable[[], object], device: torch.device) -> float | None:
    """Seconds that the GPU is at work in a call, by PyTorch's profiler, waiting excluded; None on a CPU."""
    if device.type != "cuda":
        return None
    activities = [torch.profiler.ProfilerActivity.CUDA]
    torch.cuda.synchronize(device)
    with torch.profiler.profile(activities=activities) as profile:
        run()
        torch.cuda.synchronize(device)
    return sum(event.self_device_time_total for event in profile.key_averages()) / 1e6


def waits_of(run: Callable[[], object], device: torch.device) -> int | None:
    """How often the host waits for the GPU in a call, by PyTorch's own count; None on a CPU.

    The wait for the last download, for an event, is not among them.
    """
    if device.type != "cuda":
        return None
    import warnings

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            run()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return sum("synchroniz" in str(warning.message) for warning in caught)


def memory(device: torch.device) -> dict[str, float]:
    """Megabytes: of this process now and at most, and at most on the GPU since `reset_memory`."""
    figures = {
        "process_mb": psutil.Process().memory_info().rss / 1e6,
        "process_peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3,
    }
    if device.type == "cuda":
        figures["gpu_peak_mb"] = torch.cuda.max_memory_allocated(device) / 1e6
    return {name: round(value, 1) for name, value in figures.items()}


def _best(run: Callable[[], object], device: torch.device) -> float:
    """Least seconds of a call."""
    times: list[float] = []
    run()
    while sum(times) < _SECONDS or len(times) < 3:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        began = time.perf_counter()
        run()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - began)
    return min(times)
