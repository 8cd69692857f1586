"""Weights by name: files, folders and the hub's cache, never the network."""

from pathlib import Path

import pytest
from huggingface_hub import constants

from ovseg_ros.core.errors import CheckpointError
from ovseg_ros.core.weights.files import cached_file, find_weights, repository_of

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
