"""Memory of the process: how much, and giving back what is no longer used."""

import gc
import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def host_memory(process: int | str = "self") -> int:
    """Bytes of a process, this one or one by its id, that are resident in memory; 0 where the system does not tell."""
    statm = Path(f"/proc/{process}/statm")
    return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") if statm.exists() else 0


def device_memory(device: "torch.device") -> tuple[int, int] | None:
    """Bytes that PyTorch holds on a GPU, and bytes that are free on it; None for a CPU."""
    if device.type != "cuda":
        return None
    import torch

    free, _ = torch.cuda.mem_get_info(device)
    return torch.cuda.memory_reserved(device), free


def give_back() -> None:
    """Collects what nobody refers to any more, and returns its memory on a GPU to other processes."""
    import torch

    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
