"""Strict safetensors checkpoints: half precision on disk, every key accounted for."""

from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ovseg_ros.core.errors import CheckpointError

_KEYS_SHOWN = 8


def save_half(module: nn.Module, path: Path) -> None:
    """Write a module's floating-point state in half precision, atomically.

    Raises:
        CheckpointError: it cannot be written, as on a full disk; what was there before is kept.
    """
    save_state_half(module.state_dict(), path)


def save_state_half(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Write tensors by name, those in floating point in half precision, atomically.

    Raises:
        CheckpointError: it cannot be written, as on a full disk; what was there before is kept.
    """
    state = {key: value.detach().cpu() for key, value in tensors.items()}
    state = {key: value.half().contiguous() if value.is_floating_point() else value for key, value in state.items()}
    unfinished = path.with_suffix(".tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(state, unfinished)
        unfinished.replace(path)
    except (OSError, SafetensorError) as error:
        unfinished.unlink(missing_ok=True)
        raise CheckpointError(
            f"cannot write the checkpoint {path}: {error}; what was there before is kept. Free some space or choose "
            "another folder, and run the same command again: it goes on from the last state"
        ) from error


def load_strict(module: nn.Module, path: Path) -> None:
    """Fill a module from a file whose keys and shapes are exactly its own.

    Raises:
        CheckpointError: if the file is missing or unreadable, or naming the keys that are missing, unexpected or of
            another shape.
    """
    state = read_state(path)
    wanted = module.state_dict()
    check_fit(wanted, state, path)
    module.load_state_dict({key: value.to(wanted[key].dtype) for key, value in state.items()})


def read_state(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file, on the CPU.

    Raises:
        CheckpointError: if the file is missing or unreadable.
    """
    if not path.is_file():
        raise CheckpointError(
            f"the checkpoint {path} does not exist; install the package again, or correct the path in the preset"
        )
    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"{path} is not a readable safetensors file: {error}") from error


def check_fit(wanted: Mapping[str, Tensor], state: Mapping[str, Tensor], path: Path | str) -> None:
    """Refuse a checkpoint that differs from a module's state in any key or shape.

    Raises:
        CheckpointError: naming the keys that are missing, unexpected or of another shape.
    """
    faults = {
        "missing": [key for key in wanted if key not in state],
        "unexpected": [key for key in state if key not in wanted],
        "of another shape": [
            f"{key} (file {tuple(state[key].shape)}, model {tuple(wanted[key].shape)})"
            for key in wanted
            if key in state and state[key].shape != wanted[key].shape
        ],
    }
    if any(faults.values()):
        parts = [f"{len(keys)} {what}: {_shorten(keys)}" for what, keys in faults.items() if keys]
        raise CheckpointError(f"{path} does not fit the architecture of the preset: {'; '.join(parts)}")


def _shorten(keys: list[str]) -> str:
    more = f" and {len(keys) - _KEYS_SHOWN} more" if len(keys) > _KEYS_SHOWN else ""
    return ", ".join(keys[:_KEYS_SHOWN]) + more
