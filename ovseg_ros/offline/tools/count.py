"""`ovseg count`: a preset's parameters and FLOPs, from shapes on the meta device; nothing is downloaded or allocated.

A multiplication and an addition count as two FLOPs. Matrix products, convolutions and attention are counted; norms,
activations, resizing and pooling, which are below a percent of them, are not.
"""

import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from open_clip.transformer import VisionTransformer
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from ovseg_ros.core.backbones.open_clip_model import build_open_clip
from ovseg_ros.core.backbones.sentence_clip import make_image_tower
from ovseg_ros.core.classification.fisa.classifier import FisaClassifier
from ovseg_ros.core.classification.fisa.clip_tower import image_tokens
from ovseg_ros.core.classification.fisa.mask_views import view_size
from ovseg_ros.core.errors import ConfigError
from ovseg_ros.core.presets import PresetConfig, load_preset
from ovseg_ros.core.proposals.eomt.network import EoMT
from ovseg_ros.core.types import TextEmbeddings
from ovseg_ros.core.vocabulary import CategorySpec, Vocabulary
from ovseg_ros.offline.data.files import write_json

FEW_WORDS, MANY_WORDS = 10, 1000
_MASK_STRIDE = 4
_TIMED = 15


def count(preset: str, *, masks: int, words: int, timing: bool = False, json_path: Path | None = None) -> int:
    """Count, print and write a preset's figures; see docs/offline.md for the JSON.

    Args:
        masks, words: read in an image; each word is one prompt.
        timing: also measure how the classifier's time depends on the number of words, on this machine's CPU.

    Returns:
        The exit code, 0.

    Raises:
        ConfigError: the preset is missing, malformed or has no FISA.
    """
    config = load_preset(preset)
    report = {"preset": preset, "masks": masks, "words": words, **count_fisa(config, masks=masks, words=words)}
    generator = generator_report(config)
    if generator is not None:
        report["mask_generator"] = generator
    if timing:
        report["timing"] = time_vocabularies(config, masks=masks)
    print_report(report)
    if json_path is not None:
        write_json(json_path, report)
        print(f"figures written to {json_path}", file=sys.stderr)
    return 0


def make_fisa(config: PresetConfig, device: Literal["cpu", "meta"]) -> FisaClassifier:
    """A preset's FISA with random weights, or with shapes only.

    Raises:
        ConfigError: if the preset has none.
    """
    if config.fisa is None:
        raise ConfigError("only presets with a fisa section can be counted, such as fisa_l, fisa_b or tabletop_fisa")
    if config.clip is not None:
        with torch.device(device):
            visual: VisionTransformer = make_image_tower(config.clip)
        return _fisa(visual, config, config.clip.embed_dim, device)
    assert config.open_clip is not None  # one of the two, which the preset has checked
    if device != "meta":
        raise ConfigError("timing allocates the weights, which is meant for small presets such as tabletop_fisa")
    model, _ = build_open_clip(config.open_clip, device="meta")
    return _fisa(model.visual, config, model.visual.output_dim, device)


def _fisa(visual: VisionTransformer, config: PresetConfig, text_width: int, device: str) -> FisaClassifier:
    assert config.fisa is not None
    zero = torch.zeros((), device=device)
    mean, std = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)
    return FisaClassifier(
        visual, config.fisa, text_width=text_width, logit_scale=zero, logit_bias=zero, mean=mean, std=std
    ).eval()


def count_fisa(config: PresetConfig, *, masks: int, words: int) -> dict[str, Any]:
    """Parameters and FLOPs of a preset's FISA at its own input size.

    "extra" is what FISA adds to a plain CLIP image tower that looks at the same pixels. FISA does not run the last
    block of the image path, whose output no mask reads; so it can even be negative.
    """
    classifier = make_fisa(config, "meta")
    tower = sum(parameter.numel() for parameter in classifier.visual.parameters())
    trained = sum(value.numel() for value in classifier.trained_state_dict().values())
    total = sum(parameter.numel() for parameter in classifier.parameters())
    plain = _plain_tower_flops(classifier, config, masks)
    few, some, many = (fisa_flops(classifier, config, masks, number) for number in (FEW_WORDS, words, MANY_WORDS))
    return {
        "parameters": {"clip_image_tower": tower, "trained": trained, "frozen": total - trained},
        "flops": {
            "clip_image_tower": plain,
            "fisa": some["frame"],
            "extra": some["frame"] - plain,
            "vocabulary_once": some["vocabulary"],
        },
        "extra_share": some["frame"] / plain - 1,
        "words_ratio": {
            "words": [FEW_WORDS, MANY_WORDS],
            "frame": many["frame"] / few["frame"],
            "extra": (many["frame"] - plain) / (few["frame"] - plain),
        },
    }


def fisa_flops(classifier: FisaClassifier, config: PresetConfig, masks: int, words: int) -> dict[str, int]:
    """FLOPs of one image ("frame") and of a change of words ("vocabulary")."""
    text = _words(words, classifier.visual.proj)
    images, mask_logits = _inputs(config, masks, classifier.visual.proj)

    def name_masks() -> None:
        classifier.word_logits(classifier.embed(images, mask_logits, text), text)

    with torch.no_grad():  # so that text keys and values are kept
        vocabulary = flops_of(lambda: classifier.remember_text(text))
        return {"frame": flops_of(name_masks), "vocabulary": vocabulary}


def _plain_tower_flops(classifier: FisaClassifier, config: PresetConfig, masks: int) -> int:
    """FLOPs of the unmodified image tower on the pixels that FISA gives it: the image, or each mask's crop."""
    fisa, visual = classifier.config, classifier.visual
    images, _ = _inputs(config, masks, visual.proj)
    height, width = config.input_size if fisa.view == "image" else (1, 1)
    size = view_size(height, width, fisa.input_size, visual.patch_size)
    views = (masks if fisa.view == "crops" else 1) * (2 if fisa.mirrored else 1)

    def run() -> None:
        *_, last = image_tokens(visual, images.new_empty(1, 3, *size))
        pooled = visual.ln_post(visual.transformer.resblocks[-1](last))[:, 0]
        pooled @ visual.proj

    with torch.no_grad():
        return views * flops_of(run)


def generator_report(config: PresetConfig) -> dict[str, Any] | None:
    """Parameters and FLOPs of a mask generator of this package; None for a public one, whose shape is in its file."""
    if config.eomt is None:
        return None
    with torch.device("meta"):
        generator = EoMT(config.eomt).eval()
        images = torch.empty(1, 3, *config.input_size)
    with torch.no_grad():
        return {
            "parameters": sum(parameter.numel() for parameter in generator.parameters()),
            "flops": flops_of(lambda: generator(images)),
        }


def time_vocabularies(config: PresetConfig, *, masks: int) -> dict[str, Any]:
    """Seconds of one image's classification at few and at many words, taking turns; text keys and values are kept."""
    classifier = make_fisa(config, "cpu")
    images, mask_logits = _inputs(config, masks, classifier.visual.proj)
    mask_logits = torch.randn_like(mask_logits)
    texts = [_words(number, classifier.visual.proj) for number in (FEW_WORDS, MANY_WORDS)]
    seconds: list[list[float]] = [[], []]
    with torch.inference_mode():
        for turn in range(_TIMED + 2):
            for text, durations in zip(texts, seconds, strict=True):
                began = time.perf_counter()
                classifier.word_logits(classifier.embed(images, mask_logits, text), text)
                if turn >= 2:  # the first turns warm up
                    durations.append(time.perf_counter() - began)
    medians = [statistics.median(durations) for durations in seconds]
    return {"words": [FEW_WORDS, MANY_WORDS], "median_seconds": medians, "ratio": medians[1] / medians[0]}


def flops_of(run: Callable[[], object]) -> int:
    """FLOPs of a call."""
    with _counted_attention(), FlopCounterMode(display=False) as counter:
        run()
    return int(counter.get_total_flops())


@contextmanager
def _counted_attention() -> Iterator[None]:
    """Without PyTorch's fused inference path of `nn.MultiheadAttention`, which the counter does not know."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


def _words(number: int, like: Tensor) -> TextEmbeddings:
    """Random unit vectors, or their shape."""
    vocabulary = Vocabulary.build([CategorySpec(f"word {index}") for index in range(number)])
    vectors = nn.functional.normalize(torch.randn(number, like.shape[1], device=like.device), dim=-1)
    return TextEmbeddings(vectors, torch.arange(number, device=like.device), vocabulary)


def _inputs(config: PresetConfig, masks: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """An image and masks of the preset's input size."""
    height, width = config.input_size
    images = torch.rand(1, 3, height, width, device=like.device)
    return images, torch.empty(1, masks, height // _MASK_STRIDE, width // _MASK_STRIDE, device=like.device)


def print_report(report: dict[str, Any]) -> None:
    """A readable table on stdout."""
    parameters, flops = report["parameters"], report["flops"]
    print(f"preset {report['preset']}, {report['masks']} masks, {report['words']} words")
    print(f"{'parameters, millions':32}{'trained':>10} {parameters['trained'] / 1e6:10.2f}")
    print(f"{'':32}{'frozen':>10} {parameters['frozen'] / 1e6:10.2f}")
    if "mask_generator" in report:
        print(f"{'':32}{'generator':>10} {report['mask_generator']['parameters'] / 1e6:10.2f}")
        print(f"{'mask generator':32}{'GFLOP':>10} {report['mask_generator']['flops'] / 1e9:10.2f}")
    else:
        print("mask generator: a public checkpoint, whose shape is in its file; not counted")
    for name, title in (
        ("clip_image_tower", "plain CLIP image tower"),
        ("fisa", "FISA, CLIP's image path included"),
        ("extra", "what FISA adds"),
        ("vocabulary_once", "a new vocabulary, once"),
    ):
        print(f"{title:32}{'GFLOP':>10} {flops[name] / 1e9:10.2f}")
    print(f"FISA adds {100 * report['extra_share']:.1f} % to the plain CLIP image tower")
    ratio = report["words_ratio"]
    few, many = ratio["words"]
    print(
        f"FLOPs of a frame at {many} words over {few}: {ratio['frame']:.4f} (of what FISA adds: {ratio['extra']:.3f})"
    )
    if "timing" in report:
        print(f"time of a frame's classification at {many} words over {few}: {report['timing']['ratio']:.3f}")
