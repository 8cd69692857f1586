"""Any preset's model on the meta device: its shapes, without its weights. Nothing is read but the preset."""

from dataclasses import replace
from functools import partial

import torch

from ovseg_ros.core.build import LoadedClip, build_fisa, load_clip, text_width
from ovseg_ros.core.build_masks import named_classes
from ovseg_ros.core.class_names import class_phrases
from ovseg_ros.core.classification.lmseg import LMSegClassifier
from ovseg_ros.core.classification.masked_crops import MaskedCropClassifier, MaskedCropConfig
from ovseg_ros.core.classification.pooled import PooledClassifier
from ovseg_ros.core.classification.pooling import MaskPooling
from ovseg_ros.core.classification.word_ensemble import WordEnsembleClassifier
from ovseg_ros.core.errors import ConfigError
from ovseg_ros.core.images import BLACK
from ovseg_ros.core.joint.closed_set import ClosedSet, ClosedSetPrompt
from ovseg_ros.core.joint.omtseg.model import OMTSeg, OMTSegPrompt
from ovseg_ros.core.joint.omtseg.tokens import WordTokenizer
from ovseg_ros.core.joint.semantic import SemanticModel, SemanticPrompt
from ovseg_ros.core.model import Classifier, Model, Prompt, Proposer, TwoStage, TwoStagePrompt
from ovseg_ros.core.presets import PresetFolder, load_preset, preset_folder
from ovseg_ros.core.proposals.closed_set import class_names
from ovseg_ros.core.proposals.mask_network import MaskNetwork
from ovseg_ros.core.proposals.padded import PaddedProposer, PromptGuidedProposer
from ovseg_ros.core.proposals.prompt_guidance import PromptGuidance
from ovseg_ros.core.proposals.published import published_eomt, published_mask2former
from ovseg_ros.core.sections import (
    ClassifierSection,
    ClosedSetSection,
    EoMTSection,
    FisaSection,
    GeneratorSection,
    LMSegSection,
    Mask2FormerSection,
    OMTSegSection,
    PooledSection,
    PromptGuidedSection,
    PublishedEoMTSection,
    SemanticSection,
    TwoStageSection,
    WordEnsembleSection,
)
from ovseg_ros.core.types import TextEmbeddings
from ovseg_ros.core.vocabulary import CategorySpec, Vocabulary
from ovseg_ros.offline.tools.count_joint import omtseg_shapes, tokens_of
from ovseg_ros.offline.tools.count_masks import generator_shapes
from ovseg_ros.offline.tools.count_scorer import scorer_shapes
from ovseg_ros.offline.tools.shapes import META

_LOGIT_SCALE = 100.0  # CLIP's limit; it changes no shape


def model_shapes(preset: str) -> Model:
    """A preset's model in evaluation mode, on the meta device.

    Raises:
        ConfigError: the preset is missing or malformed, or its mask generator's shape is known by its file alone.
    """
    config, files = load_preset(preset).model, preset_folder(preset)
    match config:
        case TwoStageSection():
            model: Model = _two_stage(preset, config, files)
        case ClosedSetSection():
            classes = [(f"class {index}",) for index in range(_classes(config.proposer))]
            with META:
                model = ClosedSet(
                    PaddedProposer(_generator(preset, config), config.input_size), classes, config.input_size
                )
        case OMTSegSection():
            network = omtseg_shapes(config.architecture)
            model = OMTSeg(network, WordTokenizer(("word",)), unknown_likeness=config.unknown_likeness)
        case SemanticSection():
            clip = load_clip(config.clip, ("{}",), files, META)
            # Components, which the host looks for, have no shape before there are pixels.
            model = SemanticModel(
                scorer_shapes(config.clip, config.scorer, files), clip.text_encoder, max_components=None
            )
    model.requires_grad_(False)  # PyTorch's counter fails on views of parameters that want gradients
    return model.to(META).eval()


@torch.no_grad()
def prompt_shapes(model: Model, words: int) -> Prompt:
    """A vocabulary of so many words, each with one name, made ready for a model on the meta device."""
    vocabulary = Vocabulary.build([CategorySpec(f"word {index}") for index in range(words)], max_categories=words)
    if isinstance(model, ClosedSet):
        return ClosedSetPrompt(vocabulary, torch.empty(len(model.own_words) + 1, words + 1, device=META))
    if isinstance(model, OMTSeg):
        states = torch.empty(tokens_of(words), model.network.config.encoder.width, device=META)
        places = torch.arange(words, device=META)
        present, named = (torch.ones(len(some), dtype=torch.bool, device=META) for some in (states, places))
        return OMTSegPrompt(vocabulary, states, places, places, present, named)
    if isinstance(model, SemanticModel):
        return SemanticPrompt(vocabulary, model.scorer.prepare(_text(vocabulary, model.scorer.visual.proj.shape[1])))
    assert isinstance(model, TwoStage)
    text = model.text_encoder.encode(vocabulary)
    return TwoStagePrompt(vocabulary, model.proposer.prepare(text), model.classifier.prepare(text))


def _text(vocabulary: Vocabulary, width: int) -> TextEmbeddings:
    count = len(vocabulary.categories)
    return TextEmbeddings(torch.empty(count, width, device=META), torch.arange(count, device=META), vocabulary)


def _two_stage(preset: str, config: TwoStageSection, files: PresetFolder) -> TwoStage:
    clip = load_clip(config.clip, ("{}",), files, META)
    with META:
        proposer = _proposer(preset, config, text_width(config.clip, files))
        classifier = _classifier(config, config.classifier, clip, files)
    return TwoStage(proposer, classifier, clip.text_encoder, config.input_size)


def _generator(preset: str, config: TwoStageSection | ClosedSetSection) -> MaskNetwork:
    network = generator_shapes(config)
    if network is None:
        raise ConfigError(
            f"the mask generator of the preset {preset} is a public checkpoint, whose shape is in its file; name a "
            "preset with a known one, such as eomt_l_convnext or tabletop"
        )
    network.fold_norms()
    return network


def _proposer(preset: str, config: TwoStageSection, width: int) -> Proposer:
    network = _generator(preset, config)
    if not isinstance(config.proposer, PromptGuidedSection):
        return PaddedProposer(network, config.input_size, padding_color=BLACK)
    network.guidance = PromptGuidance(*network.guided_layers, width, config.proposer.prompt)
    return PromptGuidedProposer(network, config.input_size, padding_color=BLACK)


def _classes(generator: GeneratorSection) -> int:
    """Of a mask generator's closed set."""
    match generator:
        case EoMTSection(architecture=architecture):
            return architecture.num_classes
        case PublishedEoMTSection(checkpoint=source):
            eomt = published_eomt(source)
            return 0 if eomt is None else eomt.config.num_classes
        case Mask2FormerSection(checkpoint=source):
            mask2former = published_mask2former(source)
            return 0 if mask2former is None else mask2former.num_classes


def _classifier(
    config: TwoStageSection,
    naming: ClassifierSection,
    clip: LoadedClip,
    files: PresetFolder,
    *,
    is_joined: bool = False,
) -> Classifier:
    """As `build_classifier`."""
    match naming:
        case MaskedCropConfig():
            return MaskedCropClassifier(clip.tower, naming)
        case FisaSection():
            return build_fisa(replace(naming, checkpoint=None), clip, files)
        case LMSegSection():
            return LMSegClassifier(scorer_shapes(config.clip, naming.scorer, files), naming.void_correction)
        case WordEnsembleSection():
            return WordEnsembleClassifier(
                _classifier(config, naming.clip, clip, files, is_joined=True), naming.clip_share
            )
        case PooledSection():
            ensemble, phrases = naming.ensemble, []
            if ensemble is not None:
                generator = config.generator
                specs = named_classes(generator, files) if isinstance(generator, EoMTSection) else ()
                names = [spec.name for spec in specs] or class_names(_classes(generator), {}, "this preset")
                phrases = class_phrases([(name,) for name in names], ensemble.synonyms)
            background = Vocabulary.build([CategorySpec(word) for word in ensemble.background]) if ensemble else None
            return PooledClassifier(
                MaskPooling(clip.tower.visual, naming.pooling, clip.mean, clip.std),
                logit_scale=_LOGIT_SCALE,
                ensemble=ensemble,
                class_phrases=phrases,
                background=partial(clip.text_encoder.encode, background) if background else None,
                drops_nothing=not is_joined,
            )
