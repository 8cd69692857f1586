"""Checkpoints fit exactly or say what does not."""

from pathlib import Path

import pytest
import torch
from torch import nn

from ovseg_ros.core.errors import CheckpointError
from ovseg_ros.core.weights.strict import load_strict, save_state_half


def test_a_checkpoint_comes_back_to_half_precision(tmp_path: Path) -> None:
    saved, loaded = nn.BatchNorm1d(3), nn.BatchNorm1d(3)
    saved.weight.data.copy_(torch.tensor([0.1, -2.0, 3.0]))
    saved.num_batches_tracked.fill_(70_000)
    save_state_half(saved.state_dict(), tmp_path / "a.safetensors")
    load_strict(loaded, tmp_path / "a.safetensors")
    assert loaded.weight.dtype == torch.float32
    torch.testing.assert_close(loaded.weight, saved.weight, atol=1e-3, rtol=1e-3)
    assert int(loaded.num_batches_tracked) == 70_000  # integers are not rounded
    assert [file.name for file in tmp_path.iterdir()] == ["a.safetensors"]


def test_what_does_not_fit_is_listed(tmp_path: Path) -> None:
    save_state_half(nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1)).state_dict(), tmp_path / "a.safetensors")
    with pytest.raises(CheckpointError) as caught:
        load_strict(nn.ModuleDict({"0": nn.Linear(2, 4), "head": nn.Linear(1, 1)}), tmp_path / "a.safetensors")
    message = str(caught.value)
    assert "2 missing: head.weight, head.bias" in message
    assert "2 unexpected: 1.bias, 1.weight" in message
    assert "0.weight (file (3, 2), model (4, 2))" in message


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_no_number_is_refused(tmp_path: Path, value: float) -> None:
    model = nn.Linear(2, 3)
    model.bias.data[1] = value
    save_state_half(model.state_dict(), tmp_path / "a.safetensors")
    with pytest.raises(CheckpointError, match="a.safetensors has 1 tensors with values that are NaN .* such as bias;"):
        load_strict(nn.Linear(2, 3), tmp_path / "a.safetensors")


def test_missing_and_broken_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="absent.safetensors does not exist"):
        load_strict(nn.Linear(1, 1), tmp_path / "absent.safetensors")
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(b"not safetensors")
    with pytest.raises(CheckpointError, match=r"broken.safetensors is not a readable"):
        load_strict(nn.Linear(1, 1), broken)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full, a file on a disk that is always full")
def test_a_full_disk_keeps_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_state_half(nn.Linear(2, 3).state_dict(), path)
    before = path.read_bytes()
    (tmp_path / "a.tmp").symlink_to("/dev/full")
    with pytest.raises(CheckpointError, match=r"cannot write .*a.safetensors.*No space left.*what was there before"):
        save_state_half(nn.Linear(2, 3).state_dict(), path)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["a.safetensors"]
