"""Strict safetensors checkpoints: half precision on disk, every key accounted for."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from ovseg_ros.core.command import ovseg_command
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


def read_own(path: Path, module: nn.Module, wanted: Collection[str]) -> dict[str, Tensor]:
    """The tensors of a file of this package's networks: safetensors, or the state of a training (.pt).

    Args:
        module: what is to be filled. A training's state holds all its buffers; those not `wanted` are left out.
        wanted: names.

    Raises:
        CheckpointError: it is missing, damaged or something else.
    """
    if path.suffix != ".pt":
        return read_safetensors(path)
    if not path.is_file():
        raise CheckpointError(f"{path} does not exist; the training there has not written it, or not yet")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}") from error
    except Exception as error:  # torn bytes lead to any of a dozen types, whose texts advise to trust the file
        raise CheckpointError(
            f"{path} is damaged, or no training's state ({path.stat().st_size} bytes); take previous.pt or best.pt"
        ) from error
    tensors = state.get("model") if isinstance(state, dict) and "step" in state else None
    if not isinstance(tensors, dict) or not all(isinstance(value, Tensor) for value in tensors.values()):
        raise CheckpointError(
            f"{path} is not the state of a training by {ovseg_command()} train; name one, or its result"
        )
    spare = {name for name, _ in module.named_buffers()}.difference(wanted)
    return {name: value for name, value in tensors.items() if name not in spare}


def load_strict(module: nn.Module, path: Path) -> None:
    """Fill a module from a file whose keys and shapes are exactly its own, else a CheckpointError."""
    wanted = module.state_dict()
    state = read_own(path, module, wanted)
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
    """CheckpointError, naming them, if any keys or shapes of a checkpoint and a module's state differ; or as of
    `require_finite`."""
    faults = fit_faults({key: tuple(value.shape) for key, value in wanted.items()}, state)
    if faults:
        raise CheckpointError(f"{path} does not fit the architecture of the preset: {faults}")
    require_finite(state, path)


def require_finite(state: Mapping[str, Tensor], path: Path | str) -> None:
    """CheckpointError, naming them, if tensors hold what is no number: 40 ms a GB of weights on one core."""
    wrong = [key for key, value in state.items() if not _is_finite(value)]
    if wrong:
        raise CheckpointError(
            f"{path} has {len(wrong)} tensors with values that are NaN or infinite, such as {wrong[0]}; a training "
            "went wrong, or the file is damaged: take an earlier checkpoint, or download it again"
        )


def _is_finite(value: Tensor) -> bool:
    if value.is_meta or not value.is_floating_point() or not value.numel():
        return True
    return all(bool(end.isfinite()) for end in torch.aminmax(value))  # one pass, and nothing is allocated


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
