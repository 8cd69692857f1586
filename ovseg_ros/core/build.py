"""Preset -> segmenter: which modules, and where their weights come from. One match for each place in a preset."""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from open_clip import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD, CustomTextCLIP
from torch import Tensor, nn

from ovseg_ros.core.backbones.beit3 import Beit3
from ovseg_ros.core.backbones.beit3_weights import load_beit3
from ovseg_ros.core.backbones.image_encoder import ImageEncoder
from ovseg_ros.core.backbones.open_clip_model import (
    OpenClipConfig,
    build_open_clip,
    encode_prompts,
    model_description,
    prompt_encoder,
)
from ovseg_ros.core.backbones.sam import SamConfig, SamEncoder, load_sam
from ovseg_ros.core.backbones.sentence_clip import ImageTower, build_clip, clip_shapes, sentence_encoder
from ovseg_ros.core.build_masks import build_generator, build_proposer
from ovseg_ros.core.class_names import class_phrases
from ovseg_ros.core.classification.fisa.classifier import FisaClassifier
from ovseg_ros.core.classification.lmseg import LMSegClassifier
from ovseg_ros.core.classification.masked_crops import MaskedCropClassifier, MaskedCropConfig
from ovseg_ros.core.classification.pooled import PooledClassifier
from ovseg_ros.core.classification.pooling import MaskPooling
from ovseg_ros.core.classification.word_ensemble import WordEnsembleClassifier
from ovseg_ros.core.descriptions import DescriptionFiles, DescriptionsConfig
from ovseg_ros.core.devices import pick_device
from ovseg_ros.core.engine.options import AUTOMATIC, EngineOptions
from ovseg_ros.core.errors import ConfigError
from ovseg_ros.core.joint.closed_set import ClosedSet
from ovseg_ros.core.joint.omtseg.model import OMTSeg
from ovseg_ros.core.joint.omtseg.network import OMTSegNetwork
from ovseg_ros.core.joint.omtseg.tokens import SentencePieceTokenizer, Tokenizer, WordTokenizer
from ovseg_ros.core.joint.semantic import SemanticModel
from ovseg_ros.core.model import Classifier, Model, TwoStage
from ovseg_ros.core.presets import PresetFolder, load_preset, preset_folder, require_weights
from ovseg_ros.core.proposals.eomt.features import EoMTFeatures
from ovseg_ros.core.proposals.eomt.network import EoMT
from ovseg_ros.core.scoring.lmseg.cat_seg_weights import load_cat_seg
from ovseg_ros.core.scoring.lmseg.scorer import LMSegScorer
from ovseg_ros.core.sections import (
    ClassifierSection,
    ClipSection,
    ClosedSetSection,
    EoMTSection,
    FisaSection,
    LMSegSection,
    ModelSection,
    OMTSegSection,
    PooledSection,
    ScorerSection,
    SemanticSection,
    SentenceClipSection,
    SentencePieceSection,
    TwoStageSection,
    WordEnsembleSection,
    WordListSection,
)
from ovseg_ros.core.segmenter import PanopticSegmenter
from ovseg_ros.core.start import started
from ovseg_ros.core.templates import prompt_templates
from ovseg_ros.core.text import Reader, TextEncoder
from ovseg_ros.core.trained_weights import require_trained
from ovseg_ros.core.vocabulary import CategorySpec, Vocabulary
from ovseg_ros.core.weights.files import find_file
from ovseg_ros.core.weights.strict import check_fit, load_strict, read_own

_TENSORS_AT_ONCE = 64
"""Of a file: its pages count as memory while any of its tensors is held."""


def build_segmenter(
    preset: str,
    device: str = "auto",
    options: EngineOptions = AUTOMATIC,
    tell: Callable[[str], None] = warnings.warn,
) -> PanopticSegmenter:
    """A segmenter ready to run.

    Args:
        preset: name of a bundled preset or path to a YAML file.
        device: "auto" (the GPU where there is one), "cpu", "cuda", "cuda:1", ...
        options: what runs it, and in which precision; the segmenter's `engine` says what was taken.
        tell: told when an engine fails and another takes its place, now or while it runs.

    Raises:
        ConfigError: for a missing or malformed preset, a device that is not there, or an engine or precision that was
            asked for by name and does not do.
        CheckpointError: for missing or ill-fitting weights.
    """
    config = load_preset(preset)
    target = pick_device(device)
    require_trained(preset, config)  # first: whoever has to train need not fetch gigabytes to learn it
    require_weights(preset, config)
    folder = preset_folder(preset)

    def build() -> PanopticSegmenter:
        return PanopticSegmenter(build_model(config.model, folder, target), config.merge, target)

    return started(build, preset, options, tell)


def build_model(config: ModelSection, files: PresetFolder, device: torch.device) -> Model:
    """What segments. Text towers are on `device`, the rest where it was loaded."""
    match config:
        case TwoStageSection():
            return build_two_stage(config, files, device)
        case ClosedSetSection():
            generator, classes = build_generator(config.proposer, config.input_size, files)
            return ClosedSet(generator, class_phrases(classes, config.synonyms), config.input_size)
        case OMTSegSection():
            tokenizer = build_tokenizer(config, files)  # first, as it is quick to say what is wrong
            network = build_omtseg_network(config, files)
            return OMTSeg(
                network, tokenizer, unknown_likeness=config.unknown_likeness, is_trained=config.checkpoint is not None
            )
        case SemanticSection():
            clip = load_clip(config.clip, config.templates, files, device, config.descriptions)
            split = config.instances == "components"
            return SemanticModel(
                build_scorer(config.scorer, clip, files),
                clip.text_encoder,
                max_components=config.max_instances if split else None,
                is_trained=is_trained(config.scorer),
            )


def build_omtseg_network(config: OMTSegSection, files: PresetFolder) -> OMTSegNetwork:
    """OMTSeg's network: trained if the section names a checkpoint, else with random weights around its encoder's."""
    architecture = config.architecture
    encoder = (
        Beit3(architecture.encoder)
        if config.encoder_weights is None
        else load_beit3(files.public(config.encoder_weights), architecture.encoder)
    )
    network = OMTSegNetwork(architecture, encoder)
    if config.checkpoint is not None:
        path = files.own(config.checkpoint)
        wanted = network.trained_state(encoder_is_public=config.encoder_weights is not None)
        check_fit(wanted, read_own(path, network, wanted), path)
        names = list(wanted)
        for start in range(0, len(names), _TENSORS_AT_ONCE):
            part = read_own(path, network, wanted)
            network.load_state_dict(
                {name: part[name] for name in names[start : start + _TENSORS_AT_ONCE]}, strict=False
            )
    return network


def build_tokenizer(config: OMTSegSection, files: PresetFolder) -> Tokenizer:
    """What makes tokens of words; ConfigError if there are more than the encoder has rows for."""
    match config.tokenizer:
        case SentencePieceSection(file=file):
            tokenizer: Tokenizer = SentencePieceTokenizer(find_file(files.public(file)))
        case WordListSection(words=words):
            tokenizer = WordTokenizer(words)
    if tokenizer.size > (rows := config.architecture.encoder.words):
        raise ConfigError(
            f"the tokenizer has {tokenizer.size} tokens, but architecture.encoder.words is {rows}; raise it"
        )
    return tokenizer


def build_two_stage(
    config: TwoStageSection, files: PresetFolder, device: torch.device, *, seed: int | None = None
) -> TwoStage:
    """Two stages. `seed`: of an untrained classifier's initial weights; None leaves them to the global generator."""
    proposer, classes = build_proposer(config.proposer, config.input_size, files, text_width(config.clip, files))
    clip = load_clip(config.clip, config.templates, files, device, config.descriptions)
    if seed is not None:
        torch.manual_seed(seed)
    classifier = build_classifier(config.classifier, clip, files, classes)
    return TwoStage(proposer, classifier, clip.text_encoder, config.input_size)


def text_width(config: ClipSection, files: PresetFolder) -> int:
    """D of a CLIP's text vectors."""
    match config:
        case SentenceClipSection():
            return config.architecture.embed_dim
        case OpenClipConfig():
            return int(model_description(files.public(config.architecture))["embed_dim"])


@dataclass(frozen=True, slots=True)
class LoadedClip:
    """A CLIP with its weights.

    Attributes:
        tower: reads images.
        text: the text tower; None where it is a language model's, which is never trained.
        encode: sentences -> (N, D) unit vectors, by the text tower on its device; with gradients where they are enabled
            and anything of it is trained.
        text_encoder: reads words, on the segmenter's device.
        mean, std: of the tower's pixels.
    """

    tower: ImageTower
    text: nn.Module | None
    encode: Callable[[Sequence[str]], Tensor]
    text_encoder: TextEncoder
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


def load_clip(
    config: ClipSection,
    templates: Sequence[str] | str,
    files: PresetFolder,
    device: torch.device,
    descriptions: DescriptionsConfig | None = None,
) -> LoadedClip:
    """A preset's CLIP, its text tower on `device`; on the meta device its shapes alone, and no file is read."""
    templates = prompt_templates(templates)
    if device.type == "meta":
        shapes = _clip_shapes(config, files)

        def encode(some: Sequence[str]) -> Tensor:
            return torch.empty(len(some), shapes.text.output_dim, device=device)

        words = TextEncoder(encode, templates)
        text = shapes.text if isinstance(config, OpenClipConfig) else None
        return LoadedClip(ImageTower(shapes), text, encode, words, OPENAI_DATASET_MEAN, OPENAI_DATASET_STD)
    described = DescriptionFiles(descriptions, files.descriptions(descriptions)) if descriptions is not None else None
    match config:
        case SentenceClipSection():
            own, tokenizer = build_clip(config.architecture)
            own.text.to(device)
            tower = ImageTower(own)
            load_strict(tower, files.own(config.checkpoint))
            by_own = sentence_encoder(own, tokenizer)
            words = TextEncoder(
                by_own, templates, Reader(by_own.count, by_own.context_length), described, tower=by_own.tower
            )
            return LoadedClip(tower, None, by_own, words, OPENAI_DATASET_MEAN, OPENAI_DATASET_STD)
        case OpenClipConfig():
            architecture, checkpoint = files.public(config.architecture), files.public(config.checkpoint)
            found = replace(config, architecture=architecture, checkpoint=checkpoint)
            model, simple_tokenizer = build_open_clip(found)
            model.text.to(device)
            read = prompt_encoder(model, simple_tokenizer)
            words = TextEncoder(read, templates, Reader(read.count, read.context_length), described, tower=read.tower)
            by_clip = partial(encode_prompts, model, simple_tokenizer)
            return LoadedClip(ImageTower(model), model.text, by_clip, words, config.mean, config.std)


def _clip_shapes(config: ClipSection, files: PresetFolder) -> CustomTextCLIP:
    match config:
        case SentenceClipSection():
            return clip_shapes(config.architecture)
        case OpenClipConfig():
            return build_open_clip(replace(config, architecture=files.public(config.architecture)), device="meta")[0]


def build_classifier(
    config: ClassifierSection,
    clip: LoadedClip,
    files: PresetFolder,
    classes: Sequence[Sequence[str]],
    *,
    is_joined: bool = False,
) -> Classifier:
    """What names masks.

    Args:
        classes: the proposer's closed set, as `build_proposer` tells it.
        is_joined: whether a word ensemble joins its names with the mask generator's.
    """
    match config:
        case MaskedCropConfig():
            return MaskedCropClassifier(clip.tower, config)
        case FisaSection():
            return build_fisa(config, clip, files)
        case LMSegSection():
            scorer = build_scorer(config.scorer, clip, files)
            return LMSegClassifier(scorer, config.void_correction, is_trained=is_trained(config.scorer))
        case WordEnsembleSection():
            by_clip = build_classifier(config.clip, clip, files, classes, is_joined=True)
            return WordEnsembleClassifier(by_clip, config.clip_share)
        case PooledSection():
            ensemble = config.ensemble
            background = ensemble.background if ensemble is not None else ()
            words = Vocabulary.build([CategorySpec(word) for word in background]) if background else None
            return PooledClassifier(
                MaskPooling(clip.tower.visual, config.pooling, clip.mean, clip.std),
                logit_scale=float(clip.tower.logit_scale.detach().exp()),
                ensemble=ensemble,
                class_phrases=class_phrases(classes, ensemble.synonyms) if ensemble is not None else (),
                background=partial(clip.text_encoder.encode, words) if words is not None else None,
                drops_nothing=not is_joined,
            )


def build_fisa(config: FisaSection, clip: LoadedClip, files: PresetFolder) -> FisaClassifier:
    """A FISA on a CLIP, trained if the section names a checkpoint."""
    fisa = FisaClassifier(
        clip.tower.visual,
        config.architecture,
        logit_scale=clip.tower.logit_scale,
        logit_bias=clip.tower.logit_bias,
        mean=clip.mean,
        std=clip.std,
    )
    if config.checkpoint is not None:
        path = files.own(config.checkpoint)
        fisa.load_trained_state_dict(read_own(path, fisa, fisa.trained_state_dict()), path)
    return fisa


def build_scorer(config: ScorerSection, clip: LoadedClip, files: PresetFolder) -> LMSegScorer:
    """A scorer on a CLIP, of which it trains a part; trained if the section names a checkpoint."""
    tuned = clip.text if config.architecture.tunes_clip else None
    sam, sam_width = _second_encoder(config.sam, files)
    scorer = LMSegScorer(
        clip.tower.visual, tuned, sam, config.architecture, sam_width=sam_width, mean=clip.mean, std=clip.std
    )
    if config.checkpoint is not None:
        path = files.own(config.checkpoint)
        scorer.load_trained_state_dict(read_own(path, scorer, scorer.trained_state_dict()), path)
    elif config.warm_start is not None:
        load_cat_seg(files.public(config.warm_start), scorer)
    return scorer


def is_trained(config: ScorerSection) -> bool:
    """Whether a scorer knows anything."""
    return config.checkpoint is not None or config.warm_start is not None


def _second_encoder(config: SamConfig | EoMTSection | None, files: PresetFolder) -> tuple[ImageEncoder | None, int]:
    """What sees edges beside CLIP, its trained part ready to learn; and the width of its features."""
    match config:
        case None:
            return None, 0
        case SamConfig():
            sam = SamEncoder(config) if config.checkpoint is None else load_sam(files.public(config.checkpoint), config)
            sam.tune_attention()
            return sam, sam.width
        case EoMTSection():
            eomt = EoMT(config.architecture)
            load_strict(eomt, files.own(config.checkpoint))
            return EoMTFeatures(eomt), config.architecture.width
