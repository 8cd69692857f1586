"""Preset -> mask generator: one match for each kind of it. See `build.py`."""

import torch

from ovseg_ros.core.errors import ConfigError
from ovseg_ros.core.images import BLACK, IMAGENET_MEAN
from ovseg_ros.core.model import Proposer
from ovseg_ros.core.presets import PresetFolder
from ovseg_ros.core.proposals.eomt.checkpoints import load_eomt
from ovseg_ros.core.proposals.eomt.network import EoMT
from ovseg_ros.core.proposals.mask_network import MaskNetwork
from ovseg_ros.core.proposals.padded import PaddedProposer, PromptGuidedProposer
from ovseg_ros.core.proposals.prompt_guidance import PromptGuidance
from ovseg_ros.core.sections import (
    EoMTSection,
    GeneratorSection,
    Mask2FormerSection,
    NamedClass,
    PromptGuidedSection,
    ProposerSection,
    PublishedEoMTSection,
)
from ovseg_ros.core.vocabulary import CategorySpec, find_vocabulary, load_vocabulary_file
from ovseg_ros.core.weights.strict import load_strict

Classes = tuple[tuple[str, ...], ...]
"""A closed set in the order of the class head, without "no object": of each class its name, and its synonyms."""


def build_generator(
    config: GeneratorSection, input_size: tuple[int, int], files: PresetFolder
) -> tuple[Proposer, Classes]:
    """A mask generator that no words guide, and its closed set; none where nobody gave its classes names."""
    network, classes, padding_color = _mask_network(config, input_size, files)
    network.fold_norms()
    return PaddedProposer(network, input_size, padding_color=padding_color, pads=_pads(config)), classes


def named_classes(section: EoMTSection, files: PresetFolder) -> tuple[CategorySpec, ...]:
    """The closed set of an EoMT of this package, of the same names; none where nobody gave them.

    Raises:
        VocabularyError: `classes` is no vocabulary's name or file, or that is malformed.
        ConfigError: the vocabulary has not as many categories as the network has classes.
    """
    match section.classes:
        case None:
            return ()
        case str() as source:
            path = find_vocabulary(files.public(source))
            specs = load_vocabulary_file(path)
            if len(specs) != (count := section.architecture.num_classes):
                raise ConfigError(
                    f"proposer.classes: {path} has {len(specs)} categories, but architecture.num_classes is {count}; "
                    "name the vocabulary of the training's categories, in their order"
                )
            return specs
        case classes:
            named = [one if isinstance(one, NamedClass) else NamedClass(one) for one in classes]
            return tuple(CategorySpec(one.name, one.synonyms, one.is_thing is not False) for one in named)


def build_proposer(
    config: ProposerSection,
    input_size: tuple[int, int],
    files: PresetFolder,
    text_width: int,
    *,
    guided_learns: bool = False,
) -> tuple[Proposer, Classes]:
    """As `build_generator`, of one that words may guide.

    Args:
        text_width: D of the text vectors that may guide it.
        guided_learns: whether one that they do guide is to be trained; else it only gets as fast as it can.
    """
    if not isinstance(config, PromptGuidedSection):
        return build_generator(config, input_size, files)
    network, classes, padding_color = _mask_network(config.generator, input_size, files)
    network.guidance = PromptGuidance(*network.guided_layers, text_width, config.prompt)
    is_trained = config.checkpoint is not None
    if config.checkpoint is not None:
        load_strict(network, files.own(config.checkpoint))
    if not guided_learns:
        network.fold_norms()
    guided = PromptGuidedProposer(
        network, input_size, padding_color=padding_color, pads=_pads(config.generator), is_trained=is_trained
    )
    return guided, classes


def padding_of(section: EoMTSection) -> tuple[float, float, float]:
    """RGB in [0, 1] of what an EoMT of this package saw beside an image."""
    if section.padding is None:
        return IMAGENET_MEAN
    red, green, blue = section.padding
    return red / 255, green / 255, blue / 255


def _pads(config: GeneratorSection) -> bool:
    return isinstance(config, Mask2FormerSection) or config.pads


def _mask_network(
    config: GeneratorSection, input_size: tuple[int, int], files: PresetFolder
) -> tuple[MaskNetwork, Classes, tuple[float, float, float]]:
    """A mask generator's network, its closed set, and what it was trained to see beside an image."""
    match config:
        case EoMTSection():
            classes = tuple((one.name, *one.synonyms) for one in named_classes(config, files))
            eomt = EoMT(config.architecture)
            load_strict(eomt, files.own(config.checkpoint))
            return eomt, classes, padding_of(config)
        case PublishedEoMTSection():
            base = config.base and files.public(config.base)
            source = files.public(config.checkpoint)
            eomt, class_names = load_eomt(
                source, image_size=input_size, dtype=torch.float32, base=base, differences=config.differences
            )
            return eomt, _by_name(class_names), BLACK
        case Mask2FormerSection():
            from ovseg_ros.core.proposals.mask2former import load_mask2former  # seconds of transformers' imports

            mask2former, class_names = load_mask2former(files.public(config.checkpoint))
            return mask2former, _by_name(class_names), IMAGENET_MEAN


def _by_name(names: tuple[str, ...]) -> Classes:
    return tuple((name,) for name in names)
