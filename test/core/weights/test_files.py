"""Weights by name: files, folders and the hub's cache, never the network."""

from argparse import Namespace
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants

from ovseg_ros.core.errors import CheckpointError
from ovseg_ros.core.weights.files import cached_file, find_file, find_weights, read_weights, repository_of

NAMES = ("model.safetensors", "model.bin")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of the hub."""
    folder = tmp_path / "hub"
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder))
    return folder


def put(cache: Path, repository: str, name: str, content: bytes = b"weights") -> Path:
    """A file in the cache's own layout."""
    folder = cache / f"models--{repository.replace('/', '--')}"
    snapshot = folder / "snapshots" / "c0ffee"
    snapshot.mkdir(parents=True, exist_ok=True)
    (folder / "refs").mkdir(exist_ok=True)
    (folder / "refs" / "main").write_text("c0ffee")
    (snapshot / name).write_bytes(content)
    return snapshot / name


def test_a_file_is_taken_as_it_is_and_a_folder_by_preference(tmp_path: Path) -> None:
    for name in reversed(NAMES):
        (tmp_path / name).write_bytes(b"")
    assert find_weights(str(tmp_path / "model.bin"), NAMES).shards == (tmp_path / "model.bin",)
    assert find_weights(str(tmp_path), NAMES).shards == (tmp_path / "model.safetensors",)
    assert find_weights(str(tmp_path), ["absent.bin", "model.bin"]).shards == (tmp_path / "model.bin",)
    with pytest.raises(CheckpointError, match=r"exactly one .* found 2 \(model.bin, model.safetensors\)"):
        find_weights(str(tmp_path), ["absent.bin"])
    (tmp_path / "model.bin").unlink()
    assert find_weights(str(tmp_path), ["absent.bin"]).shards == (tmp_path / "model.safetensors",)


@pytest.mark.parametrize("prefix", ["", "hf-hub:"])
def test_a_repository_is_looked_up_in_the_cache(cache: Path, prefix: str) -> None:
    path = put(cache, "owner/clip", "model.bin")
    assert find_weights(f"{prefix}owner/clip", NAMES).shards == (path,)
    assert cached_file("owner/clip", ["model.safetensors"]) is None


def test_a_missing_file_is_one_sentence_with_where_and_how(cache: Path) -> None:
    with pytest.raises(CheckpointError) as caught:
        find_weights("owner/clip", NAMES)
    message = str(caught.value)
    assert "model.safetensors of owner/clip" in message
    assert str(cache / "models--owner--clip") in message
    assert "ovseg download" in message
    assert "\n" not in message


def test_other_mistakes_are_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="holds none of model.safetensors, model.bin"):
        find_weights(str(tmp_path), NAMES)
    with pytest.raises(CheckpointError, match="no such file or folder"):
        find_weights(str(tmp_path / "absent.bin"), NAMES)
    with pytest.raises(CheckpointError, match="is missing"):
        find_weights("owner/..", NAMES)


@pytest.mark.parametrize(
    ("source", "expected"),
    [("a/b", True), ("hf-hub:a/b", True), ("a", False), ("/a/b", False), ("a/b/c", False), ("", False), ("./b", False)],
)
def test_what_is_written_like_a_repository(source: str, expected: bool) -> None:
    assert (repository_of(source) is not None) == expected


def test_a_file_of_a_space_is_looked_up_in_the_cache(cache: Path) -> None:
    source = "spaces/owner/demo/large.pth"
    with pytest.raises(CheckpointError) as caught:
        find_weights(source)
    assert f"large.pth of spaces/owner/demo is missing: there is no folder {source}" in str(caught.value)
    assert f"none in {cache / 'spaces--owner--demo'};" in str(caught.value)
    assert str(caught.value).endswith("hf download owner/demo --repo-type space")
    put(cache, "owner/demo", "large.pth")  # a model of the same name is another thing
    assert cached_file("spaces/owner/demo", ["large.pth"]) is None
    (cache / "models--owner--demo").rename(cache / "spaces--owner--demo")
    put(cache, "owner/demo", "small.pth").rename(cache / "spaces--owner--demo" / "snapshots" / "c0ffee" / "small.pth")
    assert [path.name for path in find_weights(source).shards] == ["large.pth"]
    assert repository_of(source) == "spaces/owner/demo" and repository_of("spaces/owner/demo") is None


@pytest.fixture
def checkpoints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder of torch.hub's, by TORCH_HOME."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    folder = tmp_path / "torch" / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    return folder


def test_a_bare_name_is_looked_for_where_pytorch_keeps_files(
    checkpoints: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for call in (find_weights, find_file):
        with pytest.raises(CheckpointError) as caught:
            call("words.spm")
        message = str(caught.value)
        assert "'words.spm'" in message and str(checkpoints) in message and "ovseg download" in message
        assert "\n" not in message
    for name in ("words.spm", "tiny.pth"):
        (checkpoints / name).write_bytes(b"fetched")
    (checkpoints / "config.json").write_text("whoever's")
    assert find_file("words.spm") == checkpoints / "words.spm"
    found = find_weights("tiny.pth")
    assert found.shards == (checkpoints / "tiny.pth",) and found.settings == {}
    # A file that is here comes first; one of a path is not looked for elsewhere.
    (tmp_path / "tiny.pth").write_bytes(b"here")
    monkeypatch.chdir(tmp_path)
    assert find_weights("tiny.pth").shards == (Path("tiny.pth"),)
    with pytest.raises(CheckpointError, match="no such file or folder"):
        find_file("./words.spm")


@pytest.mark.parametrize("key", ["state_dict", "model", None])
def test_of_a_training_only_the_weights_are_read(tmp_path: Path, key: str | None) -> None:
    path = tmp_path / "tiny.pth"
    tensors = {"a.weight": torch.arange(3.0), "a.bias": torch.zeros(2)}
    beside = {"optimizer": {"state": {}, "param_groups": [{"lr": 0.1}]}, "epoch": 3, "args": Namespace(lr=0.1)}
    torch.save(tensors if key is None else {key: tensors, **beside}, path)
    state = read_weights(find_weights(str(path)))
    assert state.keys() == tensors.keys()
    assert all(torch.equal(state[name], tensor) for name, tensor in tensors.items())
    torch.save({"network": tensors, **beside}, path)
    with pytest.raises(CheckpointError, match="does not hold named tensors, nor a state_dict or model of them"):
        read_weights(find_weights(str(path)))
