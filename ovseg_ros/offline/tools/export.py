"""`ovseg export`: a preset's parts as files that other engines run, checked against the model that they are of."""

import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from ovseg_ros.core.build import build_segmenter
from ovseg_ros.core.devices import pick_device
from ovseg_ros.core.engine.agreement import LEAST_EQUAL, MOST_LOGIT_ERROR, Sight, agreement
from ovseg_ros.core.engine.available import onnx_providers
from ovseg_ros.core.engine.manifest import (
    FILE_NAME,
    CheckFigures,
    ExportedPart,
    Manifest,
    fits,
    manifest_text,
    preset_digest,
    read_manifest,
    usual_folder,
    weight_digests,
)
from ovseg_ros.core.engine.onnx_runs import CUDA, load_runs, require_provider, runtime_version
from ovseg_ros.core.engine.options import REPRODUCIBLE
from ovseg_ros.core.engine.part import Part, Run
from ovseg_ros.core.engine.precision import DTYPES, store
from ovseg_ros.core.errors import ConfigError
from ovseg_ros.core.presets import preset_name
from ovseg_ros.core.segmenter import PanopticSegmenter
from ovseg_ros.core.self_check import look
from ovseg_ros.core.version import VERSION
from ovseg_ros.offline.data.files import check_outputs, write_bytes
from ovseg_ros.offline.export_options import ExportOptions
from ovseg_ros.offline.tools.export_parts import (
    Example,
    export_onnx,
    export_pt2,
    exporter_versions,
    pt2_runs,
    require_exporter,
)

_VOCABULARIES = ("tabletop", "table")
"""With which the check looks at the bundled images: many words, and a single one."""


def export(options: ExportOptions) -> int:
    """Export a preset, and check what was exported; see docs/engines.md for the files.

    Returns:
        The exit code: 0.

    Raises:
        OvsegError: the preset, its weights or the folder are wrong, something needed is not installed, or what was
            exported does not agree with the model. The folder is then as it was.
    """
    options = replace(options, size=tuple(dict.fromkeys(options.size)))
    folder = options.output or usual_folder(options.preset)
    check_outputs(folders={"--output": folder}, files={})
    device = _device(options)
    copied = _copied(options, folder)
    if copied is None:
        _refuse_to_replace(folder, overwrite=options.overwrite)
        require_exporter(options.format)
    segmenter = build_segmenter(options.preset, str(device), REPRODUCIBLE)
    parts = segmenter.model.parts
    if not parts:
        raise ConfigError(f"the model of the preset {options.preset} has no parts to export")
    _say(f"the model in float32 on {device}, which is what the export is compared with")
    with _watched(parts) as examples:
        reference = _look(segmenter, options.size)
    if idle := [part.name for part in parts if all(example.part is not part for example in examples)]:
        raise ConfigError(f"on the bundled images the model did not use {', '.join(idle)}, whose shapes are unknown")
    dtype = DTYPES[options.precision]
    store(segmenter.model, dtype)
    for part in parts:
        part.dtype = dtype
    if copied is not None:
        manifest = _checked(copied, options, folder, segmenter, reference)
        _write(folder, manifest)
    else:
        with _written_whole(folder) as unfinished:
            manifest = _exported(options, unfinished, examples)
            _write(unfinished, manifest)  # for what loads the files
            manifest = _checked(manifest, options, unfinished, segmenter, reference)
            _write(unfinished, manifest)
    print(f"{folder}: {_summary(manifest)}")
    return 0


def _device(options: ExportOptions) -> torch.device:
    """Where the model and its check run; ConfigError if what runs the check is not there."""
    device = pick_device(options.device)
    if options.format == "pt2":
        return device
    if options.device == "auto" and options.format == "onnx" and CUDA not in onnx_providers():
        device = torch.device("cpu")  # the files are the same
    require_provider(device, tensorrt=options.format == "tensorrt")
    if options.precision == "bfloat16" and device.type == "cpu":
        raise ConfigError(
            "ONNX Runtime computes bfloat16 on a GPU only, so nothing could check the export here; choose "
            "--precision float16 or float32, or a GPU with onnxruntime-gpu"
        )
    return device


def _copied(options: ExportOptions, folder: Path) -> Manifest | None:
    """An export to ONNX that is there already, perhaps from another machine, for engines to be built of it."""
    if options.format != "tensorrt" or options.overwrite or not (folder / FILE_NAME).exists():
        return None
    manifest = read_manifest(folder, options.preset)
    if (reason := fits(manifest, options.preset)) is not None:
        raise ConfigError(reason)
    if manifest.kind == "pt2" or (manifest.precision, manifest.sizes) != (options.precision, options.size):
        raise ConfigError(
            f"{folder} holds an export of kind {manifest.kind} in {manifest.precision} for cameras of "
            f"{manifest.cameras}; give the same --precision and --size, or export anew with --overwrite"
        )
    return manifest


def _refuse_to_replace(folder: Path, *, overwrite: bool) -> None:
    if not folder.exists() or not any(folder.iterdir()):
        return
    if not (folder / FILE_NAME).exists():
        raise ConfigError(f"{folder} holds other files and no export ({FILE_NAME}); choose another --output")
    if not overwrite:
        raise ConfigError(f"{folder} already holds an export ({FILE_NAME}); choose another --output or add --overwrite")


@contextmanager
def _written_whole(folder: Path) -> Iterator[Path]:
    """A folder beside, which takes the place of `folder` at the end, or is gone after an error."""
    folder = folder.absolute()
    folder.parent.mkdir(parents=True, exist_ok=True)
    unfinished, old = (folder.with_name(f".{folder.name}.{os.getpid()}.{what}") for what in ("tmp", "old"))
    unfinished.mkdir()
    try:
        yield unfinished
        if folder.exists():
            folder.replace(old)
        unfinished.replace(folder)
    except BaseException:
        if old.exists() and not folder.exists():
            old.replace(folder)
        raise
    finally:
        for left in (unfinished, old):
            with suppress(FileNotFoundError):
                shutil.rmtree(left)


def _look(segmenter: PanopticSegmenter, sizes: Sequence[tuple[int, int]]) -> list[Sight]:
    return [sight for size in sizes for words in _VOCABULARIES for sight in look(segmenter, size, words)]


@contextmanager
def _watched(parts: Sequence[Part]) -> Iterator[list[Example]]:
    """What parts are given while in it, once for each size of what is not free."""
    examples: list[Example] = []

    def watching(part: Part, run: Run) -> Run:
        def call(*tensors: Tensor) -> tuple[Tensor, ...]:
            example = Example(part, tensors)
            if not any(example.is_like(other) for other in examples):
                examples.append(Example(part, tuple(tensor.clone() for tensor in tensors)))
            return run(*tensors)

        return call

    before = [part.run for part in parts]
    for part in parts:
        part.run = watching(part, part.run)
    try:
        yield examples
    finally:
        for part, run in zip(parts, before, strict=True):
            part.run = run


def _exported(options: ExportOptions, folder: Path, examples: Sequence[Example]) -> Manifest:
    """Writes the parts' files, and what they are, without the check."""
    exported: list[ExportedPart] = []
    for number, example in enumerate(examples, start=1):
        name = example.part.name
        _say(f"part {name} ({number} of {len(examples)})")
        before = sum(part.name == name for part in exported)
        write = export_pt2 if options.format == "pt2" else export_onnx
        exported.append(write(example, folder, f"{name}_{before + 1}" if before else name))
    return Manifest(
        format=1,
        kind=options.format,
        preset=preset_name(options.preset),
        preset_sha256=preset_digest(options.preset),
        version=VERSION,
        weights=weight_digests(options.preset),
        precision=options.precision,
        sizes=options.size,
        parts=tuple(exported),
        versions=exporter_versions(options.format),
    )


def _checked(
    manifest: Manifest, options: ExportOptions, folder: Path, segmenter: PanopticSegmenter, reference: list[Sight]
) -> Manifest:
    """The manifest with what came of running the files in `folder`; ConfigError if that is not near enough."""
    parts, device, is_tensorrt = segmenter.model.parts, segmenter.device, options.format == "tensorrt"
    _say("the check" + (", after TensorRT has built its engines, which takes minutes" if is_tensorrt else ""))
    if options.format == "pt2":
        by, runs = "PyTorch", pt2_runs(manifest, folder, parts)
    else:
        by = f"ONNX Runtime {runtime_version()} ({require_provider(device, tensorrt=is_tensorrt)})"
        runs = load_runs(folder, parts, device, tensorrt=is_tensorrt)
    for part in parts:
        part.run = runs[part.name]
    found = agreement(_look(segmenter, options.size), reference)
    if not found.is_enough:
        raise ConfigError(
            f"run by {by}, the exported parts are too far from the model in float32: {found}; {LEAST_EQUAL:.1%} of the "
            f"pixels must stay and mask logits be within {MOST_LOGIT_ERROR}; choose another --precision than "
            f"{options.precision}; nothing was changed"
        )
    check = CheckFigures(by, len(reference), found.equal, found.logit_error)
    gpu = torch.cuda.get_device_name(device) if is_tensorrt else None
    return replace(manifest, kind=options.format, check=check, gpu=gpu)


def _write(folder: Path, manifest: Manifest) -> None:
    write_bytes(folder / FILE_NAME, manifest_text(manifest).encode())


def _summary(manifest: Manifest) -> str:
    assert manifest.check is not None
    return (
        f"{manifest.preset} as {len(manifest.parts)} parts, {manifest.kind}, {manifest.precision}, for cameras of "
        f"{manifest.cameras}; by {manifest.check.by}, {int(manifest.check.equal_pixels * 10_000) / 100:.2f} % of the "
        f"pixels of {manifest.check.images} images are as in float32"
    )


def _say(text: str) -> None:
    print(f"export: {text}", file=sys.stderr)
