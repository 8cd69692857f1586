"""`ovseg count`: a preset's parameters and FLOPs, from shapes on the meta device; nothing is downloaded or allocated.

A multiplication and an addition count as two FLOPs. Matrix products, convolutions and attention are counted; norms,
activations, resizing and pooling, which are below a percent of them, are not.
"""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from ovseg_ros.core.backbones.open_clip_model import OpenClipConfig
from ovseg_ros.core.build import build_classifier, load_clip
from ovseg_ros.core.classification.fisa.classifier import FisaClassifier
from ovseg_ros.core.errors import ConfigError
from ovseg_ros.core.presets import EoMTSection, FisaSection, TwoStageSection, load_preset, preset_folder
from ovseg_ros.core.proposals.eomt.network import EoMT
from ovseg_ros.core.text import TextEncoder
from ovseg_ros.offline.data.files import write_json

FEW_WORDS, MANY_WORDS = 10, 1000
_META = torch.device("meta")
_MASK_STRIDE = 4
_WARM_UP, _TIMED = 2, 15


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
    counter = Counter(preset, masks)
    report = {"preset": preset, "masks": masks, "words": words, **counter.figures(words), **counter.generator()}
    if timing:
        report["timing"] = counter.timing()
    print_report(report)
    if json_path is not None:
        write_json(json_path, report)
        print(f"figures written to {json_path}", file=sys.stderr)
    return 0


class Counter:
    """A preset's FISA by its shapes, at the preset's input size.

    Args:
        masks: read in an image.

    Raises:
        ConfigError: the preset is missing, malformed or has no FISA.
    """

    def __init__(self, preset: str, masks: int) -> None:
        self._model: TwoStageSection = load_preset(preset).model
        if not isinstance(self._model.classifier, FisaSection):
            raise ConfigError(
                "only presets with a classifier of kind fisa can be counted, such as fisa_l, fisa_b or tabletop_fisa"
            )
        files = preset_folder(preset)
        clip = load_clip(self._model.clip, files, _META)
        text_encoder = TextEncoder(clip.encode, ["{}"])
        section = replace(self._model.classifier, checkpoint=None)
        classifier = build_classifier(section, clip, files, (), text_encoder).eval()
        assert isinstance(classifier, FisaClassifier)
        height, width = self._model.input_size
        self.classifier, self._text_width = classifier, clip.text_width
        self._images = torch.empty(1, 3, height, width, device=_META)
        self._masks = torch.empty(1, masks, height // _MASK_STRIDE, width // _MASK_STRIDE, device=_META)

    def figures(self, words: int) -> dict[str, Any]:
        """Parameters and FLOPs.

        "extra" is what FISA adds to a plain CLIP image tower that looks at the same pixels. FISA does not run the last
        block of the image path, whose output no mask reads; so it can even be negative.
        """
        trained = sum(value.numel() for value in self.classifier.trained_state_dict().values())
        plain = self._plain_tower()
        few, some, many = (self.flops(number) for number in (FEW_WORDS, words, MANY_WORDS))
        return {
            "parameters": {
                "clip_image_tower": _size(self.classifier.visual),
                "trained": trained,
                "frozen": _size(self.classifier) - trained,
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

    def flops(self, words: int) -> dict[str, int]:
        """FLOPs of one image ("frame") and of a change of words ("vocabulary")."""
        text = self._text(words)
        prepared = self.classifier.prepare(text)
        return {
            "frame": flops_of(lambda: self._classify(self.classifier, prepared)),
            "vocabulary": flops_of(lambda: self.classifier.prepare(text)),
        }

    def generator(self) -> dict[str, Any]:
        """Parameters and FLOPs of a mask generator of this package; none of a public one, whose shape is in its file."""
        if not isinstance(self._model.proposer, EoMTSection):
            return {}
        with _META:
            eomt = EoMT(self._model.proposer.architecture).eval()
        return {"mask_generator": {"parameters": _size(eomt), "flops": flops_of(lambda: eomt(self._images))}}

    @torch.inference_mode()
    def timing(self) -> dict[str, Any]:
        """Seconds of one image's classification at few and at many words, taking turns, with random weights.

        Raises:
            ConfigError: the CLIP is a public one.
        """
        if isinstance(self._model.clip, OpenClipConfig):
            raise ConfigError("timing allocates the weights, which is meant for small presets such as tabletop_fisa")
        classifier = copy.deepcopy(self.classifier).to_empty(device="cpu")
        for values in (*classifier.parameters(), *classifier.buffers()):
            nn.init.normal_(values, std=0.02)
        self._images, self._masks = torch.rand(self._images.shape), torch.randn(self._masks.shape)
        prepared = [classifier.prepare(self._text(number, "cpu")) for number in (FEW_WORDS, MANY_WORDS)]
        seconds: list[list[float]] = [[], []]
        for turn in range(_WARM_UP + _TIMED):
            for words, durations in zip(prepared, seconds, strict=True):
                began = time.perf_counter()
                self._classify(classifier, words)
                if turn >= _WARM_UP:
                    durations.append(time.perf_counter() - began)
        medians = [statistics.median(durations) for durations in seconds]
        return {"words": [FEW_WORDS, MANY_WORDS], "median_seconds": medians, "ratio": medians[1] / medians[0]}
