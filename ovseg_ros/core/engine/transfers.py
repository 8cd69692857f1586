"""Between host and GPU without a wait for either, through page-locked memory.

PyTorch keeps such memory when it is freed, and gives it out again once the copies from and to it are done. So while no
more than two frames are on their way, each kind of transfer has two blocks of memory that take turns, and none is
allocated.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor


def start_upload(arrays: Sequence[np.ndarray], device: torch.device) -> Tensor:
    """Arrays of one shape and type, stacked, on a GPU; they may be overwritten at once."""
    kind = torch.from_numpy(np.empty(0, arrays[0].dtype)).dtype
    staged = torch.empty((len(arrays), *arrays[0].shape), dtype=kind, pin_memory=True)
    np.stack(arrays, out=staged.numpy())
    return staged.to(device, non_blocking=True)


def start_download(tensors: Sequence[tuple[Tensor, type[np.generic]]]) -> Callable[[], list[np.ndarray]]:
    """Tensors (B, ...) of a GPU to arrays of a type with as many bits, in one copy.

    Returns:
        Waits for the copy, once, and gives the arrays.
    """
    rows = [tensor.flatten(1).contiguous().view(torch.uint8) for tensor, _ in tensors]
    packed = torch.cat(rows, dim=1)
    staged = torch.empty(packed.shape, dtype=torch.uint8, pin_memory=True)
    staged.copy_(packed, non_blocking=True)
    there = torch.cuda.Event(blocking=True)  # a wait leaves the core to others
    there.record(torch.cuda.current_stream(packed.device))
    ends = np.cumsum([row.shape[1] for row in rows]).tolist()
    forms = [(kind, tensor.shape) for tensor, kind in tensors]

    def arrays() -> list[np.ndarray]:
        there.synchronize()
        host = np.split(staged.numpy(), ends[:-1], axis=1)
        # Copies, since the memory goes on to other frames.
        return [part.copy().view(kind).reshape(shape) for part, (kind, shape) in zip(host, forms, strict=True)]

    return arrays
