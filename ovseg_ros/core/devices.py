"""Where a model runs."""

import re

import torch

from ovseg_ros.core.errors import ConfigError


def pick_device(name: str) -> torch.device:
    """What "auto" (the GPU where there is one), "cpu", "cuda" or "cuda:1" means; ConfigError if it is not there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if not re.fullmatch(r"cpu(:0)?|cuda(:\d{1,3})?", name):
        raise ConfigError(f"unknown device {name!r}; expected auto, cpu, cuda or cuda:N")
    device, gpus = torch.device(name), torch.cuda.device_count()
    if device.type == "cuda" and (device.index or 0) >= gpus:
        raise ConfigError(
            f"device {name!r} is not there: PyTorch {torch.__version__} sees {gpus} CUDA devices; "
            "use device auto or cpu, or check the driver with nvidia-smi"
        )
    return device
