"""`ovseg count`: a preset's parameters and FLOPs, from shapes on the meta device; nothing is downloaded or allocated.

A multiplication and an addition count as two FLOPs. Matrix products, convolutions and attention are counted; norms,
activations, resizing and pooling, which are below a percent of them, are not.
"""

import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from ovseg_ros.core.backbones.open_clip_model import OpenClipConfig
from ovseg_ros.core.build import build_fisa, load_clip
from ovseg_ros.core.classification.fisa.classifier import FisaClassifier, FisaWords
from ovseg_ros.core.classification.fisa.clip_tower import image_tokens
from ovseg_ros.core.errors import ConfigError
from ovseg_ros.core.presets import EoMTSection, fisa_section, load_preset, preset_folder
from ovseg_ros.core.proposals.eomt.network import EoMT
from ovseg_ros.core.types import TextEmbeddings
from ovseg_ros.core.vocabulary import CategorySpec, Vocabulary
from ovseg_ros.offline.evaluate.output import write_figures
from ovseg_ros.offline.options import CountOptions

FEW_WORDS, MANY_WORDS = 10, 1000
_META = torch.device("meta")
_MASK_STRIDE = 4
_WARM_UP, _TIMED = 2, 15


def count(options: CountOptions) -> int:
    """Count, print and write a preset's figures; see docs/offline.md for the JSON.

    Returns:
        The exit code, 0.

    Raises:
        ConfigError: the preset is missing, malformed or has no FISA.
    """
    preset, masks, words = options.preset, options.masks, options.words
    report = {"preset": preset, "masks": masks, "words": words, **count_fisa(preset, masks=masks, words=words)}
    proposer = count_proposer(preset)
    if proposer is not None:
        report["mask_generator"] = proposer
    if options.timing:
        report["timing"] = time_vocabularies(preset, masks=masks)
    write_figures(options.json, report)
    print_report(report)
    return 0


def fisa_shapes(preset: str) -> FisaClassifier:
    """A preset's FISA on the meta device.

    Raises:
        ConfigError: if the preset has none.
    """
    untrained = replace(fisa_section(preset), checkpoint=None)
    model, files = load_preset(preset).model, preset_folder(preset)
    return build_fisa(untrained, load_clip(model.clip, model.templates, files, _META), files).eval()


def count_fisa(preset: str, *, masks: int, words: int) -> dict[str, Any]:
    """Parameters and FLOPs of a preset's FISA at its own input size.

    "extra" is what FISA adds to a plain CLIP image tower that looks at the same pixels. FISA does not run the last
    block of the image path, whose output no mask reads; so it can even be negative.
    """
    classifier = fisa_shapes(preset)
    trained = sum(value.numel() for value in classifier.trained_state_dict().values())
    images, mask_logits = _inputs(preset, masks, _META)
    plain = _plain_tower_flops(classifier, images, mask_logits)
    few, some, many = (fisa_flops(classifier, images, mask_logits, number) for number in (FEW_WORDS, words, MANY_WORDS))
    return {
        "parameters": {
            "clip_image_tower": _size(classifier.visual),
            "trained": trained,
            "frozen": _size(classifier) - trained,
        },
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


def fisa_flops(classifier: FisaClassifier, images: Tensor, mask_logits: Tensor, words: int) -> dict[str, int]:
    """FLOPs of naming masks ("frame") and of a change of words ("vocabulary")."""
    text = _words(words, classifier)
    prepared = classifier.prepare(text)
    return {
        "frame": flops_of(lambda: _name(classifier, images, mask_logits, prepared)),
        "vocabulary": flops_of(lambda: classifier.prepare(text)),
    }


def _name(classifier: FisaClassifier, images: Tensor, mask_logits: Tensor, words: FisaWords) -> Tensor:
    views, adapted = classifier.look(images, mask_logits), classifier.adapter(mask_logits)
    return classifier.word_logits(classifier.embed(views, adapted, words), words)


def _plain_tower_flops(classifier: FisaClassifier, images: Tensor, mask_logits: Tensor) -> int:
    """FLOPs of the unmodified image tower on the pixels that FISA gives it: the image, or each mask's crop."""
    visual, pixels = classifier.visual, classifier.look(images, mask_logits).pixels

    def run() -> None:
        *_, last = image_tokens(visual, pixels[:1])
        visual.ln_post(visual.transformer.resblocks[-1](last))[:, 0] @ visual.proj

    return len(pixels) * (2 if classifier.config.mirrored else 1) * flops_of(run)


def count_proposer(preset: str) -> dict[str, int] | None:
    """Parameters and FLOPs of a mask generator of this package; None for a public one, whose shape is in its file."""
    proposer = load_preset(preset).model.proposer
    if not isinstance(proposer, EoMTSection):
        return None
    with _META:
        network = EoMT(proposer.architecture).eval()
    images, _ = _inputs(preset, 0, _META)
    return {"parameters": _size(network), "flops": flops_of(lambda: network(images))}


@torch.inference_mode()
def time_vocabularies(preset: str, *, masks: int) -> dict[str, Any]:
    """Seconds of one image's classification at few and at many words, taking turns, with random weights.

    Raises:
        ConfigError: the CLIP is a public one.
    """
    if isinstance(load_preset(preset).model.clip, OpenClipConfig):
        raise ConfigError("timing allocates the weights, which is meant for small presets such as tabletop_fisa")
    classifier = fisa_shapes(preset).to_empty(device="cpu")
    for values in (*classifier.parameters(), *classifier.buffers()):
        nn.init.normal_(values, std=0.02)
    images, mask_logits = _inputs(preset, masks, torch.device("cpu"))
    vocabularies = [classifier.prepare(_words(number, classifier)) for number in (FEW_WORDS, MANY_WORDS)]
    seconds: list[list[float]] = [[], []]
    for turn in range(_WARM_UP + _TIMED):
        for words, durations in zip(vocabularies, seconds, strict=True):
            began = time.perf_counter()
            _name(classifier, images, mask_logits, words)
            if turn >= _WARM_UP:
                durations.append(time.perf_counter() - began)
    medians = [statistics.median(durations) for durations in seconds]
    return {"words": [FEW_WORDS, MANY_WORDS], "median_seconds": medians, "ratio": medians[1] / medians[0]}


@torch.no_grad()
def flops_of(run: Callable[[], object]) -> int:
    """FLOPs of a call."""
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # the counter does not know fused `nn.MultiheadAttention`
    try:
        with FlopCounterMode(display=False) as counter:
            run()
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)
    return int(counter.get_total_flops())


def _words(number: int, classifier: FisaClassifier) -> TextEmbeddings:
    """Random unit vectors, or their shape."""
    vocabulary = Vocabulary.build([CategorySpec(f"word {index}") for index in range(number)])
    width, device = classifier.visual.proj.shape[1], classifier.visual.proj.device
    vectors = nn.functional.normalize(torch.randn(number, width, device=device), dim=-1)
    return TextEmbeddings(vectors, torch.arange(number, device=device), vocabulary)


def _inputs(preset: str, masks: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """An image and masks of a preset's input size."""
    height, width = load_preset(preset).model.input_size
    images = torch.rand(1, 3, height, width, device=device)
    return images, torch.randn(1, masks, height // _MASK_STRIDE, width // _MASK_STRIDE, device=device)


def _size(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


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
