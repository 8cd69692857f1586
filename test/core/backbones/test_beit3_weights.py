"""BEiT-3's published files load strictly; what does not fit is named."""

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from ovseg_ros.core.backbones import beit3_weights
from ovseg_ros.core.backbones.beit3 import UNUSED_ROWS, Beit3, Beit3Config, Tokens, resized_positions
from ovseg_ros.core.backbones.beit3_weights import load_beit3
from ovseg_ros.core.errors import CheckpointError

SMALL = Beit3Config(
    image_size=(64, 64), width=32, layers=2, heads=4, feed_forward_width=64, words=20, text_length=10
)  # fmt: skip
POSITIONS = "encoder.embed_positions.A.weight"
HEADS = {"mlm_head.weight": torch.ones(20, 32), "logit_scale": torch.ones(())}

State = dict[str, Tensor]


@pytest.fixture
def published() -> State:
    """A published file's tensors: half precision, all rows of the tables random."""
    generator = torch.Generator().manual_seed(0)
    state = Beit3(SMALL).state_dict()
    values = {key: torch.randn(value.shape, generator=generator).half() for key, value in state.items()}
    return {f"beit3.{key}": value for key, value in values.items()} | HEADS


def save(state: Any, path: Path) -> str:
    if path.suffix == ".safetensors":
        save_file(state, path)
    else:
        torch.save({"model": state}, path, _use_new_zipfile_serialization=not path.stem.startswith("old"))
    return str(path)


@pytest.mark.parametrize(
    ("file", "dtype"),
    [
        ("beit3.pth", torch.float16),
        ("beit3.pth", torch.float32),
        ("old.pth", torch.float16),
        ("beit3.safetensors", torch.float16),
    ],
)
def test_every_tensor_of_the_encoder_comes_from_the_file(
    tmp_path: Path, published: State, caplog: pytest.LogCaptureFixture, file: str, dtype: torch.dtype
) -> None:
    path = save({key: value.to(dtype) for key, value in published.items()}, tmp_path / file)
    with caplog.at_level(logging.INFO):
        model = load_beit3(path, SMALL)
    for key, value in model.state_dict().items():
        assert value.dtype == torch.float32 and value.device.type == "cpu", key
        assert torch.equal(value, published[f"beit3.{key}"].float()), key
    trained = {key for key, parameter in model.named_parameters() if parameter.requires_grad}
    assert set(model.state_dict()) - trained == {"vision_embed.mask_token"}
    [record] = caplog.records
    assert record.levelno == logging.INFO and record.message.endswith("of the encoder: logit_scale, mlm_head.weight")
    assert path in record.message


def test_positions_are_resized_to_the_configured_grid(tmp_path: Path, published: State) -> None:
    path = save(published, tmp_path / "beit3.pth")
    model = load_beit3(path, replace(SMALL, image_size=(96, 160)))
    rows, own = published[f"beit3.{POSITIONS}"].float(), model.state_dict()[POSITIONS]
    assert len(own) == UNUSED_ROWS + 1 + 6 * 10
    assert torch.equal(own[: UNUSED_ROWS + 1], rows[: UNUSED_ROWS + 1])
    assert torch.equal(own[UNUSED_ROWS:], resized_positions(rows[UNUSED_ROWS:], (4, 4), (6, 10)))
    with torch.no_grad():  # resized at once or for each image: the same
        images = torch.randn(1, 3, 96, 160)
        other = load_beit3(path, SMALL)
        torch.testing.assert_close(model.embed_images(images), other.embed_images(images))


@torch.no_grad()
def test_a_file_of_torchscale_gives_its_states(tmp_path: Path, torchscale_beit3: Any) -> None:
    reference = torchscale_beit3(SMALL)
    path = save({f"beit3.{key}": value for key, value in reference.state_dict().items()}, tmp_path / "beit3.pth")
    model = load_beit3(path, SMALL).eval()
    images, ids = torch.randn(2, 3, 64, 64), torch.randint(0, 20, (2, 6))
    states = model(Tokens(model.embed_images(images), model.embed_text(model.text_embed(ids))))
    expected = reference(textual_tokens=ids, visual_tokens=images)["encoder_out"]
    torch.testing.assert_close(torch.cat(states.parts, dim=1), expected, atol=1e-5, rtol=0)


def without(state: State, *keys: str) -> State:
    return {key: value for key, value in state.items() if key not in keys}


def test_what_does_not_fit_is_named(tmp_path: Path, published: State) -> None:
    def fault(state: Any, config: Beit3Config = SMALL) -> str:
        with pytest.raises(CheckpointError) as caught:
            load_beit3(save(state, tmp_path / "file.pth"), config)
        assert "file.pth" in str(caught.value)
        return str(caught.value)

    bias = "beit3.encoder.layers.1.ffn.B.fc2.bias"
    assert "1 missing: vision_embed.mask_token" in fault(without(published, "beit3.vision_embed.mask_token"))
    assert "1 missing: encoder.layers.1.ffn.B.fc2.bias" in fault(without(published, bias))
    assert "1 unexpected: pooler.weight" in fault(published | {"beit3.pooler.weight": torch.zeros(2)})
    assert "fc2.bias (file (31,), model (32,))" in fault(published | {bias: torch.zeros(31)})
    assert "text_embed.weight (file (20, 32), model (21, 32))" in fault(published, replace(SMALL, words=21))
    assert "B.weight (file (12, 32), model (13, 32))" in fault(published, replace(SMALL, text_length=11))
    other = fault(published, replace(SMALL, width=64, layers=3))
    assert " missing: encoder.layers.2." in other and "cls_token (file (1, 1, 32), model (1, 1, 64))" in other

    norm = [f"beit3.encoder.layer_norm.{half}.{kind}" for half in "AB" for kind in ("weight", "bias")]
    fine_tuned = fault(without(published, *norm))
    assert "no beit3.encoder.layer_norm.*, as BEiT-3's files for ImageNet and VQA have none" in fine_tuned
    assert "take a pretrained one, such as beit3_large_patch16_224.pth" in fine_tuned
    assert "1 missing: encoder.layer_norm.B.bias" in fault(without(published, norm[-1]))

    positions = f"beit3.{POSITIONS}"
    for rows in (20, 3, 2, 0):
        assert f"A.weight has {rows} rows; expected a square" in fault(published | {positions: torch.ones(rows, 32)})
    assert "A.weight has 0 rows" in fault(published | {positions: torch.ones(())})
    assert "A.weight has 0 rows" in fault(without(published, positions))
    assert f"{POSITIONS} (file (19, 31), model (19, 32))" in fault(published | {positions: torch.ones(19, 31)})

    nothing = fault(HEADS)
    assert "holds no BEiT-3: no tensor's name begins with 'beit3.', but there are logit_scale, mlm_head" in nothing
    assert "there are none at all" in fault({})
    assert "does not hold named tensors" in fault({"beit3.text_embed.weight": [1.0, 2.0]})


def test_damaged_files_are_named(tmp_path: Path, published: State) -> None:
    whole = Path(save(published, tmp_path / "beit3.pth")).read_bytes()
    bad = tmp_path / "bad.pth"
    for content in (b"", whole[: len(whole) // 2], whole[:100], b"\xff\xd8\xff\xe0" + bytes(1000)):
        bad.write_bytes(content)
        with pytest.raises(CheckpointError, match=rf"bad.pth \({len(content)} bytes\) is not a readable PyTorch file"):
            load_beit3(str(bad), SMALL)
    with pytest.raises(CheckpointError, match=r"absent.pth' is not there"):
        load_beit3(str(tmp_path / "absent.pth"), SMALL)


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs /proc")
def test_the_file_is_mapped_once_at_most_and_let_go(
    tmp_path: Path, published: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each mapping holds the pages that were read through it in memory."""
    path, mapped, read = save(published, tmp_path / "beit3.pth"), list[int](), beit3_weights.read_weights

    def count() -> int:
        return Path("/proc/self/maps").read_text().count(path)

    def watched(files: Any) -> State:
        mapped.append(count())
        return read(files)

    monkeypatch.setattr(beit3_weights, "read_weights", watched)
    monkeypatch.setattr(beit3_weights, "_KEYS_AT_ONCE", 10)
    model = load_beit3(path, SMALL)
    assert len(mapped) == 1 + -(-len(model.state_dict()) // 10)
    assert max(mapped) <= 1 and count() == 0

    mapped.clear()  # PyTorch's old format is read whole: once for the shapes, once for the content
    load_beit3(save(published, tmp_path / "old.pth"), SMALL)
    assert len(mapped) == 2
