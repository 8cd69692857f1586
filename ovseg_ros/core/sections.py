"""What a preset says of each part of its model.

A section's `kind` says which system it describes. A new system is one more section here, in the union of its place, and
one more case in `build.py`.
"""

from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from ovseg_ros.core.backbones.open_clip_model import OpenClipConfig
from ovseg_ros.core.backbones.sam import SamConfig
from ovseg_ros.core.backbones.sentence_clip import ClipConfig
from ovseg_ros.core.classification.ensemble import EnsembleConfig
from ovseg_ros.core.classification.fisa.config import FisaConfig
from ovseg_ros.core.classification.masked_crops import MaskedCropConfig
from ovseg_ros.core.classification.pooling import PoolingConfig
from ovseg_ros.core.config import STRICT, Name, Share
from ovseg_ros.core.descriptions import DescriptionsConfig
from ovseg_ros.core.joint.omtseg.config import OMTSegConfig
from ovseg_ros.core.proposals.eomt.network import EoMTConfig
from ovseg_ros.core.proposals.prompt_guidance import PromptConfig
from ovseg_ros.core.scoring.lmseg.config import LMSegConfig
from ovseg_ros.core.templates import prompt_templates

Level = Annotated[int, Field(ge=0, le=255)]


@dataclass(frozen=True, slots=True, config=STRICT)
class NamedClass:
    """A class of a mask generator's closed set: the words that it is, and whether its training saw things in it."""

    name: Name
    synonyms: tuple[Name, ...] = ()
    is_thing: bool | None = None


@dataclass(frozen=True, slots=True, config=STRICT)
class EoMTSection:
    """A mask generator of this package.

    Attributes:
        checkpoint: its safetensors file, or a training's state (.pt), beside the preset or in the package.
        pads: whether the network sees what is beside an image that does not fill the input size, as in its training;
            False spares it that.
        padding: red, green and blue of that in its training, 0 to 255; None: ImageNet's mean colour.
        classes: its closed set, in the order of its class head: names; or a vocabulary's name, or its file's, which may
            lie beside the preset. None: they have no names.
    """

    architecture: EoMTConfig
    checkpoint: str
    pads: bool = True
    padding: tuple[Level, Level, Level] | None = None
    classes: Annotated[tuple[Name | NamedClass, ...], Field(min_length=1)] | Name | None = None
    kind: Literal["eomt"] = "eomt"

    def __post_init__(self) -> None:
        if isinstance(self.classes, tuple) and len(self.classes) != self.architecture.num_classes:
            count = self.architecture.num_classes
            raise ValueError(f"classes has {len(self.classes)} names, but architecture.num_classes is {count}")


@dataclass(frozen=True, slots=True, config=STRICT)
class PublishedEoMTSection:
    """A public EoMT, whose architecture is read from its tensors.

    Attributes:
        checkpoint: hub repository ("owner/name"), folder or file.
        base: of an EoMT on DINOv3, the DINOv3 weights to which it holds differences, named likewise; None takes the
            repository that the published one was trained from.
        differences: whether a file on DINOv3 holds differences or whole weights; None: see `load_eomt`.
        pads: as of `EoMTSection`.
    """

    checkpoint: str
    base: str | None = None
    differences: bool | None = None
    pads: bool = True
    kind: Literal["published_eomt"] = "published_eomt"


@dataclass(frozen=True, slots=True, config=STRICT)
class Mask2FormerSection:
    """A public Mask2Former: hub repository, folder or file in transformers' layout."""

    checkpoint: str
    kind: Literal["mask2former"] = "mask2former"


GeneratorSection = EoMTSection | PublishedEoMTSection | Mask2FormerSection
"""A mask generator that no words guide."""


@dataclass(frozen=True, slots=True, config=STRICT)
class PromptGuidedSection:
    """A mask generator that words guide (PMP).

    Attributes:
        generator: whose masks words take part in; its weights are where a training begins, unless it goes on.
        prompt: how they do.
        checkpoint: the file of the whole trained network, beside the preset or in the package; None leaves the masks,
            and what is said of them, to the generator, but for `prompt.residual: false`, which has no gate to close.
    """

    generator: Annotated[GeneratorSection, Field(discriminator="kind")]
    prompt: PromptConfig = Field(default_factory=PromptConfig)
    checkpoint: str | None = None
    kind: Literal["prompt_guided"] = "prompt_guided"

    def __post_init__(self) -> None:
        if not self.prompt.residual and not isinstance(self.generator, Mask2FormerSection):
            raise ValueError(
                "prompt.residual: false is for a generator of kind mask2former; a block of an EoMT takes queries, keys "
                "and values from one stream"
            )


@dataclass(frozen=True, slots=True, config=STRICT)
class SentenceClipSection:
    """A CLIP of this package.

    Attributes:
        checkpoint: the file of its image tower, temperature and bias, beside the preset or in the package.
    """

    architecture: ClipConfig
    checkpoint: str
    kind: Literal["sentence_clip"] = "sentence_clip"


@dataclass(frozen=True, slots=True, config=STRICT)
class FisaSection:
    """Name masks by FISA.

    Attributes:
        checkpoint: the file of its trained tensors, beside the preset or in the package; None leaves them untrained.
    """

    architecture: FisaConfig = Field(default_factory=FisaConfig)
    checkpoint: str | None = None
    kind: Literal["fisa"] = "fisa"


@dataclass(frozen=True, slots=True, config=STRICT)
class PooledSection:
    """Name masks by pooling CLIP's features, without training.

    Attributes:
        ensemble: how the mask generator's own classes join in; None leaves them out.
    """

    pooling: PoolingConfig = Field(default_factory=PoolingConfig)
    ensemble: EnsembleConfig | None = None
    kind: Literal["pooled"] = "pooled"


@dataclass(frozen=True, slots=True, config=STRICT)
class ScorerSection:
    """What scores every pixel for every word (LMSeg, or without `sam`, CAT-Seg).

    Attributes:
        sam: the encoder beside CLIP, which sees edges: SAM's, or at toy size a trained EoMT's; None for CLIP alone.
        warm_start: CAT-Seg's public weights, with which a training begins: repository, folder or file. Not read where
            there is a checkpoint.
        checkpoint: the file of what was trained, beside the preset or in the package; None leaves it as it begins.
    """

    architecture: LMSegConfig = Field(default_factory=LMSegConfig)
    sam: Annotated[SamConfig | EoMTSection, Field(discriminator="kind")] | None = None
    warm_start: Annotated[str, Field(min_length=1)] | None = None
    checkpoint: Annotated[str, Field(min_length=1)] | None = None

    def __post_init__(self) -> None:
        if self.warm_start is not None and not self.architecture.tunes_clip:
            raise ValueError("warm_start holds a trained CLIP, too; leave architecture.tunes_clip true")


@dataclass(frozen=True, slots=True, config=STRICT)
class LMSegSection:
    """Name masks by how well words fit their pixels (LMSeg).

    Attributes:
        void_correction: how far the certainty of a word lowers the mask generator's "no object", in [0, 1]: it calls so
            what it was not trained with.
    """

    scorer: ScorerSection
    void_correction: Share = 0.5
    kind: Literal["lmseg"] = "lmseg"


ClipNamingSection = MaskedCropConfig | FisaSection | PooledSection | LMSegSection
"""How CLIP names masks."""


@dataclass(frozen=True, slots=True, config=STRICT)
class WordEnsembleSection:
    """Name masks by the words that guided them, and by CLIP.

    Attributes:
        clip: how CLIP names them.
        clip_share: how much CLIP counts, in [0, 1]; the default is the paper's.
    """

    clip: Annotated[ClipNamingSection, Field(discriminator="kind")]
    clip_share: Share = 0.65
    kind: Literal["word_ensemble"] = "word_ensemble"


_MASK_STRIDE = 4
"""Pixels of the image along a pixel of the masks."""

Side = Annotated[int, Field(ge=4, le=4096)]
"""Of images as the model sees them, pixels."""


def _require_whole_patches(input_size: tuple[int, int], generator: GeneratorSection) -> None:
    unit = generator.architecture.patch_size if isinstance(generator, EoMTSection) else _MASK_STRIDE
    if any(side % unit for side in input_size):
        raise ValueError(f"input_size is {list(input_size)}; with this proposer, expected multiples of {unit}")


@dataclass(frozen=True, slots=True, config=STRICT)
class ClosedSetSection:
    """Masks with the names that their generator was trained with, and no others.

    Attributes:
        input_size: as of `TwoStageSection`.
        proposer: the mask generator; an eomt needs `classes`.
        synonyms: as of `EnsembleConfig`.
    """

    input_size: tuple[Side, Side]
    proposer: Annotated[GeneratorSection, Field(discriminator="kind")]
    synonyms: str | None = None
    kind: Literal["closed_set"] = "closed_set"

    def __post_init__(self) -> None:
        if isinstance(self.proposer, EoMTSection) and self.proposer.classes is None:
            raise ValueError("a closed set needs names; give them in proposer.classes, in the order of its training")
        _require_whole_patches(self.input_size, self.proposer)

    @property
    def generator(self) -> GeneratorSection:
        """As of `TwoStageSection`."""
        return self.proposer


ProposerSection = GeneratorSection | PromptGuidedSection
ClipSection = SentenceClipSection | OpenClipConfig
ClassifierSection = ClipNamingSection | WordEnsembleSection


@dataclass(frozen=True, slots=True, config=STRICT)
class TwoStageSection:
    """Masks first, then their names.

    Attributes:
        input_size: (height, width) that images are fitted into, pixels; multiples of the proposer's patches.
        proposer, classifier: the stages.
        clip: whose text tower reads the words, and whose image tower the classifier uses.
        templates: prompts, each with one `{}`, or the name of a set: "vild" or "imagenet".
        descriptions: of words, in place of the templates or beside them; None leaves all words to the templates.
    """

    input_size: tuple[Side, Side]
    proposer: Annotated[ProposerSection, Field(discriminator="kind")]
    clip: Annotated[ClipSection, Field(discriminator="kind")]
    classifier: Annotated[ClassifierSection, Field(discriminator="kind")]
    templates: tuple[str, ...] | str = ("a photo of a {}",)
    descriptions: DescriptionsConfig | None = None
    kind: Literal["two_stage"] = "two_stage"

    def __post_init__(self) -> None:
        naming, generator = self.naming, self.generator
        if isinstance(naming, MaskedCropConfig) and not isinstance(self.clip, SentenceClipSection):
            raise ValueError("classifier masked_crops needs a clip of kind sentence_clip; choose fisa or pooled")
        ensemble = naming.ensemble if isinstance(naming, PooledSection) else None
        if isinstance(naming, LMSegSection):
            reads_anew = naming.scorer.architecture.tunes_clip and isinstance(self.clip, OpenClipConfig)
            if isinstance(self.proposer, PromptGuidedSection) and reads_anew:
                raise ValueError(
                    "classifier lmseg with tunes_clip reads words by a text tower of its own, and not by the one whose "
                    "words guided the masks; choose another classifier, or a proposer that no words guide"
                )
        if isinstance(self.classifier, WordEnsembleSection) and not isinstance(self.proposer, PromptGuidedSection):
            raise ValueError(
                f"classifier word_ensemble needs a proposer of kind prompt_guided, not {self.proposer.kind}; choose "
                "masked_crops, fisa or pooled"
            )
        if isinstance(self.proposer, PromptGuidedSection) and ensemble is not None:
            raise ValueError(
                "ensemble joins in the generator's own classes, which are not trained any further once words guide its "
                "masks; leave ensemble out, and choose word_ensemble to join in its words"
            )
        if isinstance(generator, EoMTSection) and generator.classes is None and ensemble is not None:
            raise ValueError(
                "classifier.ensemble needs a proposer whose classes have names, published_eomt, mask2former, or an "
                "eomt with classes; name them there, or leave ensemble out"
            )
        _require_whole_patches(self.input_size, generator)
        prompt_templates(self.templates)

    @property
    def generator(self) -> GeneratorSection:
        """The mask generator itself, whether or not words guide it."""
        return self.proposer.generator if isinstance(self.proposer, PromptGuidedSection) else self.proposer

    @property
    def naming(self) -> ClipNamingSection:
        """How CLIP names masks, whether or not the mask generator has a say."""
        return self.classifier.clip if isinstance(self.classifier, WordEnsembleSection) else self.classifier


@dataclass(frozen=True, slots=True, config=STRICT)
class SentencePieceSection:
    """BEiT-3's tokens: the name of its file, `beit3.spm`, or a path."""

    file: Annotated[str, Field(min_length=1)]
    kind: Literal["sentence_piece"] = "sentence_piece"


@dataclass(frozen=True, slots=True, config=STRICT)
class WordListSection:
    """The words that a small model knows, and no others."""

    words: Annotated[tuple[str, ...], Field(min_length=1)]
    kind: Literal["word_list"] = "word_list"

    def __post_init__(self) -> None:
        for word in self.words:
            if word.lower().split() != [word]:
                raise ValueError(f"words has {word!r}; expected single words in lower case, as names are read")
            if self.words.count(word) > 1:
                raise ValueError(f"words has {word!r} twice; leave one out")


TokenizerSection = SentencePieceSection | WordListSection


@dataclass(frozen=True, slots=True, config=STRICT)
class OMTSegSection:
    """Masks and names at once, by a transformer that reads image and words together (OMTSeg).

    Attributes:
        architecture: of the network. Images are fitted into its encoder's `image_size`.
        tokenizer: of the words.
        encoder_weights: public weights of the BEiT-3, which stay as they are but for its positions; None for an encoder
            that is trained with the rest.
        checkpoint: the file of what was trained, beside the preset or in the package; None leaves that untrained.
        unknown_likeness: cosine of "none of these" with every mask: what no word is more like is nothing, or "unknown"
            where the vocabulary has that.
    """

    architecture: OMTSegConfig
    tokenizer: Annotated[TokenizerSection, Field(discriminator="kind")]
    encoder_weights: Annotated[str, Field(min_length=1)] | None = None
    checkpoint: Annotated[str, Field(min_length=1)] | None = None
    unknown_likeness: Annotated[float, Field(ge=-1, le=1)] = 0.3
    kind: Literal["omtseg"] = "omtseg"

    @property
    def input_size(self) -> tuple[int, int]:
        """(height, width) that images are fitted into, pixels."""
        return self.architecture.encoder.image_size


@dataclass(frozen=True, slots=True, config=STRICT)
class SemanticSection:
    """Every pixel to the word that fits it best, without masks.

    Attributes:
        clip: whose towers read the words and, with others, the image.
        scorer: what compares them.
        templates, descriptions: as of `TwoStageSection`.
        instances: "components" splits the pixels of a thing into what does not touch; "none" leaves them one segment.
        max_instances: most segments in an image that is split so, the largest.
    """

    clip: Annotated[ClipSection, Field(discriminator="kind")]
    scorer: ScorerSection
    templates: tuple[str, ...] | str = ("a photo of a {}",)
    descriptions: DescriptionsConfig | None = None
    instances: Literal["none", "components"] = "none"
    max_instances: Annotated[int, Field(ge=1, le=10_000)] = 100
    kind: Literal["semantic"] = "semantic"

    def __post_init__(self) -> None:
        prompt_templates(self.templates)

    @property
    def input_size(self) -> tuple[int, int]:
        """(height, width) that images are scaled to, pixels."""
        return self.scorer.architecture.image_size


ModelSection = TwoStageSection | ClosedSetSection | OMTSegSection | SemanticSection
