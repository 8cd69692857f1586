"""Strict safetensors checkpoints: half precision on disk, every key accounted for."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from ovseg_ros.core.errors import CheckpointError
from ovseg_ros.core.weights.files import read_safetensors

_KEYS_SHOWN = 8


def save_state_half(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Write tensors by name, those in floating point in half precision, atomically; CheckpointError if it fails."""
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
    """Fill a module from a file whose keys and shapes are exactly its own, else a CheckpointError."""
    state = read_safetensors(path)
    wanted = module.state_dict()
    check_fit(wanted, state, path)
    module.load_state_dict({key: value.to(wanted[key].dtype) for key, value in state.items()})


def trained_state(module: nn.Module) -> dict[str, Tensor]:
    """Everything of a module that trains, and nothing else."""
    return {name: value.detach() for name, value in module.named_parameters() if value.requires_grad}


def load_trained_state(module: nn.Module, state: Mapping[str, Tensor], where: Path | str) -> None:
    """Fill what trains, in place, from a state with exactly its names and shapes; errors as of `check_fit`."""
    wanted = trained_state(module)
    check_fit(wanted, state, where)
    for name, value in wanted.items():
        value.copy_(state[name])


def check_fit(wanted: Mapping[str, Tensor], state: Mapping[str, Tensor], path: Path | str) -> None:
    """CheckpointError, naming them, if any keys or shapes of a checkpoint and a module's state differ."""
    faults = fit_faults({key: tuple(value.shape) for key, value in wanted.items()}, state)
    if faults:
        raise CheckpointError(f"{path} does not fit the architecture of the preset: {faults}")


def fit_faults(wanted: Mapping[str, tuple[int, ...]], state: Mapping[str, Tensor]) -> str:
    """How tensors differ from the shapes wanted, in words; empty where they do not."""
    wrong = [key for key in wanted if key in state and tuple(state[key].shape) != wanted[key]]
    return list_faults(
        missing=[key for key in wanted if key not in state],
        unexpected=[key for key in state if key not in wanted],
        ill_shaped=[f"{key} (file {tuple(state[key].shape)}, model {wanted[key]})" for key in wrong],
    )


def list_faults(missing: Sequence[str], unexpected: Sequence[str], ill_shaped: Sequence[str]) -> str:
    """Keys that do not fit, in words, some of each kind; empty where there are none."""
    kinds = {"missing": missing, "unexpected": unexpected, "of another shape": ill_shaped}
    return "; ".join(
        f"{len(keys)} {kind}: {', '.join(keys[:_KEYS_SHOWN])}"
        + (f" and {len(keys) - _KEYS_SHOWN} more" if len(keys) > _KEYS_SHOWN else "")
        for kind, keys in kinds.items()
        if keys
    )
