"""ONNX Runtime in the place of a part: one file for any number of words, and faults in sentences."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from ovseg_ros.core.engine import onnx_runs
from ovseg_ros.core.engine.exported_runs import ExportedRun
from ovseg_ros.core.engine.manifest import FILE_NAME, Manifest, Versions, manifest_text, read_manifest
from ovseg_ros.core.engine.onnx_runs import load_runs, require_provider
from ovseg_ros.core.engine.part import Part, Port, Run
from ovseg_ros.core.engine.precision import store
from ovseg_ros.core.errors import ConfigError, ImageSizeError
from ovseg_ros.core.proposals.eomt.network import EoMT, EoMTConfig
from ovseg_ros.core.proposals.padded import PaddedProposer
from ovseg_ros.offline.tools.export_parts import OPSET, Example, export_onnx

pytest.importorskip("onnxruntime")
onnx = pytest.importorskip("onnx")

CPU, WIDTH = torch.device("cpu"), 16


class Reading(nn.Module):
    """Pixels that attend to words and to numbered places; what is filled up is nobody's."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, WIDTH, 4, stride=4)
        self.norm = nn.LayerNorm(WIDTH)

    def forward(self, *tensors: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 3, H, W), (P, C), (P,) bool, (P,) int64 -> (B, H W / 16, C), (B, P)."""
        images, words, absent, order = tensors
        places = self.norm(self.patch(images).flatten(2).transpose(1, 2))
        keys = words[None].expand(len(images), -1, -1)
        allowed = absent.logical_not()[None, None, :].expand(len(images), places.shape[1], -1)
        read = nn.functional.scaled_dot_product_attention(
            places[:, None], keys[:, None], keys[:, None], attn_mask=allowed[:, None]
        )[:, 0]
        logits = torch.einsum("bnc,pc->bp", places + read, words) + order.to(words.dtype)
        return nn.functional.gelu(places + read), logits


def reading() -> Part:
    torch.manual_seed(0)
    inputs = (
        Port("images", {0: "images"}),
        Port("words", {0: "words"}),
        Port("absent", {0: "words"}, fill=1),
        Port("order", {0: "words"}),
    )
    outputs = (Port("places", {0: "images"}), Port("logits", {0: "images", 1: "words"}))
    return Part("reading", Reading().eval(), inputs, outputs)


def given(words: int, images: int = 1, size: tuple[int, int] = (8, 12)) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(words)
    return (
        torch.rand(images, 3, *size, generator=generator),
        torch.randn(words, WIDTH, generator=generator),
        torch.zeros(words, dtype=torch.bool),
        torch.arange(words),
    )


@pytest.fixture(scope="module")
def part() -> Part:
    return reading()


@pytest.fixture(scope="module")
def folder(part: Part, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An export for two sizes."""
    folder = tmp_path_factory.mktemp("export")
    files = [
        export_onnx(Example(part, given(3)), folder, "reading"),
        export_onnx(Example(part, given(1, size=(8, 8))), folder, "reading_2"),
    ]
    manifest = Manifest(
        format=1,
        kind="onnx",
        preset="mine",
        preset_sha256="",
        version="",
        weights=(),
        precision="float32",
        sizes=((12, 8), (8, 8)),
        parts=tuple(files),
        versions=Versions(torch.__version__),
    )
    (folder / FILE_NAME).write_text(manifest_text(manifest))
    return folder


@pytest.fixture(scope="module")
def run(part: Part, folder: Path) -> Run:
    return load_runs(folder, [part], CPU, tensorrt=False)["reading"]


@pytest.mark.parametrize("words", [1, 2, 3, 5, 150, 1203])
def test_any_number_of_words_in_one_file(words: int, part: Part, run: Run) -> None:
    for images, size in ((1, (8, 12)), (3, (8, 12)), (1, (8, 8))):
        tensors = given(words, images, size)
        with torch.inference_mode():
            for found, wanted in zip(run(*tensors), part.module(*tensors), strict=True):
                assert found.dtype is wanted.dtype
                torch.testing.assert_close(found, wanted)


def test_no_words_at_all(part: Part, run: Run) -> None:
    places, logits = run(*given(0, 2))
    assert (places.shape, logits.shape) == ((2, 6, WIDTH), (2, 0))


def test_attention_is_written_out(folder: Path) -> None:
    model = onnx.load(folder / "reading.onnx")
    operations = {node.op_type for node in model.graph.node}
    assert {"MatMul", "Softmax", "LayerNormalization"} <= operations
    assert not {"Attention", "MultiHeadAttention", "Gelu", "FusedMatMul"} & operations
    assert {node.domain for node in model.graph.node} == {""}
    assert [opset.version for opset in model.opset_import if not opset.domain] == [OPSET]


def test_free_axes_have_their_names(folder: Path) -> None:
    manifest = read_manifest(folder)
    assert [tensor.shape for tensor in manifest.parts[0].inputs] == [
        ("images", 3, 8, 12),
        ("words", WIDTH),
        ("words",),
        ("words",),
    ]
    assert [tensor.shape for tensor in manifest.parts[0].outputs] == [("images", 6, WIDTH), ("images", "words")]


def test_another_size_is_named(run: Run) -> None:
    with pytest.raises(ImageSizeError) as refused:
        run(*given(3, size=(12, 12)))
    assert " for cameras of 12x8, 8x8 does not do for images of this size" in str(refused.value)
    assert "got images (1, 3, 12, 12)" in str(refused.value)
    assert "export mine --format onnx --precision float32 --size 12x8 8x8 WxH --overwrite" in str(refused.value)


def test_half_precision_keeps_its_types(part: Part, folder: Path, tmp_path: Path) -> None:
    half = reading()
    half.module.half()
    half.dtype = torch.float16
    exported = export_onnx(Example(half, given(2)), tmp_path, "reading")
    (tmp_path / FILE_NAME).write_text(manifest_text(replace(read_manifest(folder), parts=(exported,))))
    [run] = load_runs(tmp_path, [half], CPU, tensorrt=False).values()
    half.run = run
    tensors = given(5)
    for found, wanted in zip(half(*tensors), part(*tensors), strict=True):
        assert found.dtype is torch.float16
        torch.testing.assert_close(found.float(), wanted, atol=0.2, rtol=0.02)


def test_rotary_positions_in_half_precision(tmp_path: Path) -> None:
    torch.manual_seed(0)
    small = EoMTConfig(
        image_size=(64, 96), width=64, depth=2, heads=2, num_queries=8, num_classes=5, joint_blocks=1, dinov3=True
    )
    proposer = PaddedProposer(EoMT(small), (64, 96)).eval()
    [masks] = proposer.parts
    images = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        wanted = masks(images)
    store(proposer, torch.float16)
    masks.dtype = torch.float16
    exported = export_onnx(Example(masks, (images,)), tmp_path, "masks")
    assert {tensor.dtype for tensor in (*exported.inputs, *exported.outputs)} == {"float16"}
    found = onnx_runs._Session(tmp_path, exported, CPU, tensorrt=False)([images.half()])
    for some, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(some.float(), other, atol=0.02, rtol=0.0)


def test_helpers_of_other_processes_are_left_alone(run: Run, part: Part, folder: Path) -> None:
    three = load_runs(folder, [part], CPU, tensorrt=False, threads=3)["reading"]
    for loaded, threads in ((run, torch.get_num_threads()), (three, 3)):
        assert isinstance(loaded, ExportedRun)
        program = loaded._programs[0]
        assert isinstance(program.call, onnx_runs._Session)
        options = program.call._session.get_session_options()
        assert options.intra_op_num_threads == threads
        assert options.get_session_config_entry("session.intra_op.allow_spinning") == "0"


def test_what_is_missing_is_said(part: Part, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"TensorRT needs an NVIDIA GPU, and the device is cpu"):
        load_runs(folder, [part], CPU, tensorrt=True)
    if "CUDAExecutionProvider" not in onnx_runs._runtime().get_available_providers():
        with pytest.raises(ConfigError, match=r"without CUDAExecutionProvider .* pip install onnxruntime-gpu"):
            require_provider(torch.device("cuda"), tensorrt=False)
        with pytest.raises(ConfigError, match=r"without TensorrtExecutionProvider .* TensorRT 10"):
            require_provider(torch.device("cuda"), tensorrt=True)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ConfigError, match=r"needs ONNX Runtime .* pip install onnxruntime;"):
        load_runs(folder, [part], CPU, tensorrt=False)


def test_what_does_not_belong_to_the_model_is_refused(part: Part, folder: Path, tmp_path: Path) -> None:
    def loaded(manifest: Manifest, *parts: Part) -> None:
        (tmp_path / FILE_NAME).write_text(manifest_text(manifest))
        for file in folder.glob("*.onnx"):
            if not (tmp_path / file.name).exists():
                (tmp_path / file.name).write_bytes(file.read_bytes())
        load_runs(tmp_path, parts or [part], CPU, tensorrt=False)

    manifest = read_manifest(folder)
    with pytest.raises(ConfigError, match=r"format pt2, which ONNX Runtime does not read"):
        loaded(replace(manifest, kind="pt2"))
    with pytest.raises(ConfigError, match=r"has no part other \(it has reading\)"):
        loaded(manifest, Part("other", part.module, part.inputs, part.outputs))
    with pytest.raises(
        ConfigError, match=r"reading has images, words, absent, order, but .* has images, words; export it"
    ):
        loaded(manifest, Part("reading", part.module, part.inputs[:2], part.outputs))
    renamed = replace(manifest.parts[0], inputs=tuple(reversed(manifest.parts[0].inputs)))
    with pytest.raises(ConfigError, match=r"has inputs and outputs .* but engine.json says"):
        loaded(replace(manifest, parts=(renamed,)))
    (tmp_path / "reading.onnx").write_bytes(b"no model")
    with pytest.raises(ConfigError, match=r"reading.onnx has sha256"):
        loaded(manifest)
    unseen = replace(manifest.parts[0], sha256={})
    with pytest.raises(ConfigError, match=r"ONNX Runtime cannot load .*reading.onnx"):
        loaded(replace(manifest, parts=(unseen,)))
