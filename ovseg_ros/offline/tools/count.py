"""`ovseg count`: a preset's parameters and FLOPs by shape, without its weights."""

import statistics
import time
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from ovseg_ros.core.backbones.open_clip_model import OpenClipConfig
from ovseg_ros.core.build import build_fisa, load_clip
from ovseg_ros.core.classification.fisa.classifier import FisaClassifier, FisaWords
from ovseg_ros.core.classification.fisa.clip_tower import image_tokens
from ovseg_ros.core.errors import ConfigError
from ovseg_ros.core.presets import (
    fisa_section,
    load_preset,
    preset_folder,
    two_stage,
)
from ovseg_ros.core.sections import (
    ClosedSetSection,
    FisaSection,
    LMSegSection,
    OMTSegSection,
    SemanticSection,
    TwoStageSection,
)
from ovseg_ros.core.types import TextEmbeddings
from ovseg_ros.core.vocabulary import CategorySpec, Vocabulary
from ovseg_ros.offline.evaluate.output import write_figures
from ovseg_ros.offline.measure_options import CountOptions
from ovseg_ros.offline.tools.count_frame import count_frame, print_frame
from ovseg_ros.offline.tools.count_joint import count_omtseg, print_omtseg
from ovseg_ros.offline.tools.count_masks import count_masks
from ovseg_ros.offline.tools.count_scorer import count_scorer, print_scorer
from ovseg_ros.offline.tools.count_text import count_text, has_text_tower, print_text
from ovseg_ros.offline.tools.shapes import FEW_WORDS, MANY_WORDS, META, flops_of, parameters_of, print_row

_MASK_STRIDE = 4
_WARM_UP, _TIMED = 2, 15


def count(options: CountOptions) -> int:
    """Count, print and write a preset's figures; see docs/offline.md for the JSON.

    Returns:
        The exit code, 0.

    Raises:
        CheckpointError: the package of a text tower is not installed.
        ConfigError: the preset is missing or malformed, its mask generator's shape is in its file alone, or --timing
            has no FISA to time.
    """
    preset = options.preset
    match load_preset(preset).model:
        case OMTSegSection() as model:
            if options.timing:
                fisa_section(preset)
            report = {"preset": preset, "words": options.words, **count_omtseg(model, options.words)}
        case SemanticSection() as model:
            if options.timing:
                fisa_section(preset)
            scorer = count_scorer(model.clip, model.scorer, preset_folder(preset), options.words)
            report = {"preset": preset, "words": options.words, "scorer": scorer}
        case ClosedSetSection() as model:
            if options.timing:
                fisa_section(preset)
            figures = count_masks(model, preset_folder(preset), options.words)
            report = {"preset": preset, "words": options.words, **figures}
        case TwoStageSection() as stages:
            report = _count_stages(stages, options)
    report["frame"] = count_frame(preset, options.size, options.words)
    if has_text_tower(preset):
        report["text"] = count_text(preset, options.words)
    write_figures(options.json, report)
    print_report(report)
    print_frame(report["frame"])
    if "text" in report:
        print_text(report["text"])
    return 0


def _count_stages(model: TwoStageSection, options: CountOptions) -> dict[str, Any]:
    preset, masks, words = options.preset, options.masks, options.words
    figures = count_masks(model, preset_folder(preset), words)
    if isinstance(model.naming, FisaSection):
        figures = {**count_fisa(preset, masks=masks, words=words), **figures}
    if isinstance(model.naming, LMSegSection):
        figures["scorer"] = count_scorer(model.clip, model.naming.scorer, preset_folder(preset), words)
    report = {"preset": preset, "masks": masks, "words": words, **figures}
    if options.timing:
        report["timing"] = time_vocabularies(preset, masks=masks)
    return report


def fisa_shapes(preset: str) -> FisaClassifier:
    """A preset's FISA on the meta device.

    Raises:
        ConfigError: if the preset has none.
    """
    untrained = replace(fisa_section(preset), checkpoint=None)
    model, files = two_stage(preset), preset_folder(preset)
    return build_fisa(untrained, load_clip(model.clip, model.templates, files, META), files).eval()


def count_fisa(preset: str, *, masks: int, words: int) -> dict[str, Any]:
    """Parameters and FLOPs of a preset's FISA at its own input size.

    "extra" is what FISA adds to a plain CLIP image tower that looks at the same pixels. FISA does not run the last
    block of the image path, whose output no mask reads; so it can even be negative.
    """
    classifier = fisa_shapes(preset)
    trained = sum(value.numel() for value in classifier.trained_state_dict().values())
    images, mask_logits = _inputs(preset, masks, META)
    plain = _plain_tower_flops(classifier, images, mask_logits)
    few, some, many = (fisa_flops(classifier, images, mask_logits, number) for number in (FEW_WORDS, words, MANY_WORDS))
    return {
        "parameters": {
            "clip_image_tower": parameters_of(classifier.visual),
            "trained": trained,
            "frozen": parameters_of(classifier) - trained,
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
    views, adapted = classifier.views_of(images, mask_logits), classifier.adapter(mask_logits)
    return classifier.word_logits(classifier.embed(views, adapted, words), words)


def _plain_tower_flops(classifier: FisaClassifier, images: Tensor, mask_logits: Tensor) -> int:
    """FLOPs of the unmodified image tower on the pixels that FISA gives it: the image, or each mask's crop."""
    visual, pixels = classifier.visual, classifier.views_of(images, mask_logits).pixels

    def run() -> None:
        *_, last = image_tokens(visual, pixels[:1])
        visual.ln_post(visual.transformer.resblocks[-1](last))[:, 0] @ visual.proj

    return len(pixels) * (2 if classifier.config.mirrored else 1) * flops_of(run)


@torch.inference_mode()
def time_vocabularies(preset: str, *, masks: int) -> dict[str, Any]:
    """Seconds of one image's classification at few and at many words, taking turns, with random weights.

    Raises:
        ConfigError: the CLIP is a public one.
    """
    if isinstance(two_stage(preset).clip, OpenClipConfig):
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


def print_report(report: dict[str, Any]) -> None:
    """A readable table on stdout."""
    if "tokens" in report:
        print_omtseg(report)
        return
    if "masks" not in report:
        print(f"preset {report['preset']}, {report['words']} words")
        if "scorer" in report:
            print_scorer(report["scorer"])
        if "mask_generator" in report:
            _print_masks(report["mask_generator"], None)
        return
    print(f"preset {report['preset']}, {report['masks']} masks, {report['words']} words")
    if "mask_generator" in report:
        _print_masks(report["mask_generator"], report.get("guidance"))
    else:
        print("mask generator: a public checkpoint, whose shape is in its file; not counted")
    if "parameters" in report:
        _print_fisa(report)
    if "scorer" in report:
        print_scorer(report["scorer"])
    if "timing" in report:
        print(
            f"time of a frame's classification at {MANY_WORDS} words over {FEW_WORDS}: {report['timing']['ratio']:.3f}"
        )


def _print_masks(generator: dict[str, int], guidance: dict[str, Any] | None) -> None:
    print_row("mask generator", "M parameters", generator["parameters"] / 1e6)
    print_row("", "GFLOP", generator["flops"] / 1e9)
    if guidance is None:
        return
    for name, count in guidance["parameters"].items():
        print(f"{name.replace('_', ' ') + ', trained':40}{'parameters':>14} {count:14,}")
    flops = guidance["flops"]
    print_row("mask generator guided by words", "GFLOP", flops["guided"] / 1e9)
    print_row("what the words add", "GFLOP", flops["extra"] / 1e9)
    print_row("of that, each word", "MFLOP", flops["each_word"] / 1e6)
    print_row("keys and values of new words, once", "GFLOP", flops["vocabulary_once"] / 1e9)
    print(f"words add {100 * guidance['extra_share']:.2f} % to the mask generator")
    _print_ratio(guidance["words_ratio"], "the words add")


def _print_fisa(report: dict[str, Any]) -> None:
    print_row("classifier, trained", "M parameters", report["parameters"]["trained"] / 1e6)
    print_row("classifier, frozen", "M parameters", report["parameters"]["frozen"] / 1e6)
    for name, title in (
        ("clip_image_tower", "plain CLIP image tower"),
        ("fisa", "FISA, CLIP's image path included"),
        ("extra", "what FISA adds"),
        ("vocabulary_once", "a new vocabulary, once"),
    ):
        print_row(title, "GFLOP", report["flops"][name] / 1e9)
    print(f"FISA adds {100 * report['extra_share']:.1f} % to the plain CLIP image tower")
    _print_ratio(report["words_ratio"], "FISA adds")


def _print_ratio(ratio: dict[str, Any], what: str) -> None:
    few, many = ratio["words"]
    print(f"FLOPs of a frame at {many} words over {few}: {ratio['frame']:.4f} (of what {what}: {ratio['extra']:.3f})")
