"""How much memory and time a preset takes until its first mask, in a process of its own.

    python tools/measure_loading.py eomt_l_convnext
    python tools/measure_loading.py eomt_l_convnext --random-weights /tmp/weights    # where it cannot be downloaded

Random weights have the true sizes and no sense. Each line: seconds since the process was started, by the clock and of
all cores together (which a busy machine changes less), and the peak of resident memory, with pages mapped from files.
"""

import argparse
import dataclasses
import math
import os
import resource
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

WORDS = "person, chair, table, cup, laptop, door, plant, robot arm"


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Memory and time that a preset takes until its first mask.")
    parser.add_argument("preset", help="name of a preset, or path of its YAML file")
    parser.add_argument(
        "--random-weights", type=Path, metavar="DIR", help="make weights of the true size here and use them"
    )
    parser.add_argument("--threads", type=int, default=2, help="CPU threads (default: 2)")
    parser.add_argument("--words", default=WORDS, help=f"vocabulary (default: {WORDS})")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        return measure(options.preset, options.words, options.threads)
    environment = dict(os.environ)
    if options.random_weights is not None:
        environment["HF_HUB_CACHE"] = environment["TORCH_HOME"] = str(options.random_weights.absolute())
        code = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); import measure_loading as m; "
        code += f"m.write_random_weights({options.preset!r}, {str(options.random_weights.absolute())!r})"
        subprocess.run([sys.executable, "-c", code], env=environment, check=True)
        beside = options.random_weights / f"{Path(options.preset).stem}.yaml"
        options.preset = str(beside) if beside.exists() else options.preset
    arguments = [options.preset, "--child", "--threads", str(options.threads), "--words", options.words]
    environment["OVSEG_STARTED"] = repr(time.time())
    return subprocess.run([sys.executable, __file__, *arguments], env=environment, check=False).returncode


def measure(preset: str, words: str, threads: int) -> int:
    """In a fresh process: build, read every weight once, embed the words, segment an image of 640x480 on the CPU."""
    import numpy as np
    import torch

    from ovseg_ros.core.build import build_segmenter
    from ovseg_ros.core.presets import checkpoint_paths
    from ovseg_ros.core.vocabulary import Vocabulary, parse_vocabulary

    torch.set_num_threads(threads)
    weights = sum(path.stat().st_size for path in checkpoint_paths(preset))
    print(f"{preset}: {weights / 1e6:.1f} MB of weights, {threads} threads, load average {os.getloadavg()[0]:.1f}")
    imports = report("imports", weights)
    segmenter = build_segmenter(preset, "cpu")
    held = sum(tensor.nbytes for tensor in segmenter.model.state_dict().values())
    if held > weights:  # half precision in files, single in memory
        print(f"{held / 1e6:.1f} MB of weights in memory, which counts from here on")
        weights = held
    report("built", weights, imports)
    for tensor in segmenter.model.state_dict().values():  # a mapped page counts once it has been read
        tensor.sum()
    report("every weight of the image networks read", weights, imports)
    prompt = segmenter.prepare(Vocabulary.build(parse_vocabulary(words)))
    report("words embedded", weights, imports)
    image = np.random.default_rng(0).integers(0, 255, (480, 640, 3), dtype=np.uint8)
    for which in ("first", "second"):
        segmenter.segment(image, prompt)
        report(f"{which} mask", weights, imports)
    return 0


def report(what: str, weights: int, imports: float = 0.0) -> float:
    """Print one line; returns the peak so far, 10^6 bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6
    elapsed = time.time() - float(os.environ["OVSEG_STARTED"])
    times = f"{elapsed:7.1f} s, {time.process_time():7.1f} s of CPU"
    ratios = f"{peak * 1e6 / weights:.2f} x the weights, {(peak - imports) * 1e6 / weights:.2f} x without the imports"
    print(f"{what:42} {times}, peak {peak:7.1f} MB = {ratios}", flush=True)
    return peak


def write_random_weights(preset: str, cache: str) -> None:
    """Files of a preset's names, keys and sizes in the layout of the hub's or PyTorch's cache, unless there already."""
    import torch
    from open_clip import CLIP
    from transformers import EomtConfig, EomtForUniversalSegmentation

    from ovseg_ros.core.backbones.open_clip_model import model_description
    from ovseg_ros.core.presets import load_preset
    from ovseg_ros.core.proposals.published import published_eomt

    config = load_preset(preset)
    if config.model.kind == "omtseg":
        write_omtseg(preset, Path(cache))
        return
    proposer, clip = config.model.proposer, config.model.clip
    if proposer.kind != "published_eomt" or clip.kind != "open_clip":
        raise SystemExit("--random-weights is for omtseg, and for presets with a published_eomt and an open_clip")
    eomt = published_eomt(proposer.checkpoint).config
    settings = EomtConfig(
        hidden_size=eomt.width,
        num_hidden_layers=eomt.depth,
        num_attention_heads=eomt.heads,
        image_size=eomt.image_size[0],
        patch_size=eomt.patch_size,
        num_blocks=eomt.joint_blocks,
        num_queries=eomt.num_queries,
        num_labels=eomt.num_classes,
        num_upscale_blocks=eomt.upscale_blocks,
    )
    for repository, file in ((weights.repo, weights.file) for weights in config.weights):
        path = Path(cache) / f"models--{repository.replace('/', '--')}" / "snapshots" / "random" / file
        if path.exists():
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        (path.parents[2] / "refs").mkdir(exist_ok=True)
        (path.parents[2] / "refs" / "main").write_text("random")
        if file == "config.json":
            path.write_text(settings.to_json_string())
            continue
        with torch.device("meta"):
            is_eomt = repository == proposer.checkpoint
            model = EomtForUniversalSegmentation(settings) if is_eomt else CLIP(**model_description(clip.architecture))
        save_random(model, path)
    if config.model.classifier.kind == "fisa":
        write_untrained_fisa(preset, Path(cache))


def write_omtseg(preset: str, folder: Path) -> None:
    """A BEiT-3 as it is published, in half precision, an OMTSeg preset's own checkpoint, and a copy of the preset."""
    import torch

    from ovseg_ros.core.backbones.beit3 import Beit3
    from ovseg_ros.core.joint.omtseg.network import OMTSegNetwork
    from ovseg_ros.core.presets import load_preset, preset_path
    from ovseg_ros.core.weights.strict import save_state_half

    model = load_preset(preset).model
    published = folder / "hub" / "checkpoints" / model.encoder_weights
    if not (tokens := published.parent / model.tokenizer.file).is_file():
        raise SystemExit(f"{tokens} is not there, and cannot be made; copy BEiT-3's to it")
    encoder, own = model.architecture.encoder, folder / model.checkpoint
    with torch.device("meta"):
        beit3 = Beit3(dataclasses.replace(encoder, image_size=(224, 224)))
        network = OMTSegNetwork(model.architecture, Beit3(encoder))
    if not published.exists():
        torch.save(
            {"model": {f"beit3.{key}": value.half() for key, value in random_state(beit3.state_dict())}}, published
        )
    if not own.exists():
        save_state_half(dict(random_state(network.trained_state(encoder_is_public=True))), own)
    (folder / f"{Path(preset).stem}.yaml").write_bytes(preset_path(preset).read_bytes())


def write_untrained_fisa(preset: str, folder: Path) -> None:
    """A FISA preset's own checkpoint, and a copy of the preset beside it, which finds it there."""
    import torch
    from safetensors.torch import save_file

    from ovseg_ros.core.presets import preset_path
    from ovseg_ros.offline.train.fisa import build_untrained, fisa_section

    _, classifier = build_untrained(preset, torch.device("cpu"), 0)
    state = {key: value.contiguous() for key, value in classifier.trained_state_dict().items()}
    save_file(state, folder / (fisa_section(preset).checkpoint or "fisa.safetensors"))
    (folder / f"{Path(preset).stem}.yaml").write_bytes(preset_path(preset).read_bytes())


def save_random(model: "torch.nn.Module", path: Path) -> None:  # noqa: F821
    """A checkpoint with a model's keys and shapes."""
    import torch
    from safetensors.torch import save_file

    state = dict(random_state(model.state_dict()))
    if path.suffix == ".safetensors":
        save_file(state, path)
    else:
        torch.save(state, path)


def random_state(wanted: Mapping[str, "torch.Tensor"]) -> Iterator[tuple[str, "torch.Tensor"]]:  # noqa: F821
    """Tensors by names, of the shapes of those wanted: small weights, unit norms."""
    import torch

    generator = torch.Generator().manual_seed(0)
    for key, value in wanted.items():
        if value.ndim > 1:
            yield key, torch.randn(value.shape, generator=generator) * 0.02
        elif key.endswith(("weight", "lambda1", "gamma")):
            yield key, torch.ones(value.shape)
        else:
            yield key, torch.full(value.shape, math.log(100) if key == "logit_scale" else 0.0)


if __name__ == "__main__":
    sys.exit(main())
