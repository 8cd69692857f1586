"""A segmenter of each kind that there is, in small or as bundled, for what must hold for all of them."""

from collections.abc import Callable, Sequence

import open_clip
import torch
import torch.nn.functional as F
from fisa_support import make as make_fisa
from fisa_support import stir as stir_fisa
from guidance_support import PROMPT, plain, stir
from lmseg_support import Edges
from lmseg_support import make as make_lmseg
from tiny_omtseg import WORDS, tiny_omtseg
from torch import Tensor

from ovseg_ros.core.backbones.sam import SamConfig, SamEncoder
from ovseg_ros.core.build import build_segmenter
from ovseg_ros.core.classification.ensemble import EnsembleConfig
from ovseg_ros.core.classification.lmseg import LMSegClassifier
from ovseg_ros.core.classification.pooled import PooledClassifier
from ovseg_ros.core.classification.pooling import MaskPooling, PoolingConfig
from ovseg_ros.core.classification.word_ensemble import WordEnsembleClassifier
from ovseg_ros.core.engine.options import REPRODUCIBLE
from ovseg_ros.core.joint.closed_set import ClosedSet
from ovseg_ros.core.joint.semantic import SemanticModel
from ovseg_ros.core.merge import MergeConfig
from ovseg_ros.core.model import Classifier, Model, TwoStage
from ovseg_ros.core.proposals.padded import PaddedProposer, PromptGuidedProposer
from ovseg_ros.core.proposals.prompt_guidance import PromptGuidance
from ovseg_ros.core.segmenter import PanopticSegmenter
from ovseg_ros.core.text import TextEncoder

SIZE = (64, 64)
D = 16
"""Of the space that images and words share."""
BUNDLED = ("tabletop", "tabletop_fisa", "tabletop_lmseg", "tabletop_pmp")
EVERYTHING = MergeConfig(object_threshold=0.0, overlap_threshold=0.0, mask_threshold=0.5, min_area=1)
CONVNEXT = {
    "timm_model_name": "test_convnext",
    "timm_model_pretrained": False,
    "timm_pool": "",
    "timm_proj": "mlp",
    "image_size": 64,
}
_VIT = {"image_size": 64, "patch_size": 16, "width": 32, "layers": 2, "head_width": 16}
_SAM = SamConfig(image_size=64, width=32, layers=4, heads=2, window=3)


def read(sentences: Sequence[str]) -> Tensor:
    """Unit vectors (N, D) that depend on the letters."""
    seeds = [torch.Generator().manual_seed(int.from_bytes(sentence.encode()[-7:])) for sentence in sentences]
    return F.normalize(torch.stack([torch.randn(D, generator=seed) for seed in seeds]), dim=-1)


def pooled(vision: dict[str, object], **changes: object) -> PooledClassifier:
    """CLIP of this shape, pooled under masks."""
    torch.manual_seed(0)
    text = {"context_length": 16, "vocab_size": 64, "width": 16, "heads": 2, "layers": 1}
    visual = open_clip.CustomTextCLIP(embed_dim=D, vision_cfg=vision, text_cfg=text).visual
    stir(visual, 0.1)
    pooling = MaskPooling(visual, PoolingConfig(64, 128), (0.5, 0.4, 0.3), (0.2, 0.3, 0.2))
    return PooledClassifier(pooling, logit_scale=20.0, **changes)  # type: ignore[arg-type]


def ensemble() -> dict[str, object]:
    """What `pooled` needs to join five classes of the mask generator."""
    phrases = [("cup",), ("ball", "globe"), ("floor",), ("wall",), ("dog",)]
    return {"ensemble": EnsembleConfig(), "class_phrases": phrases}


def _two_stage(kind: str, classifier: Classifier) -> TwoStage:
    return TwoStage(PaddedProposer(plain(kind), SIZE), classifier, TextEncoder(read, ("{}",)), SIZE)


def _guided(kind: str, classifier: Classifier) -> TwoStage:
    network = plain(kind)
    network.guidance = PromptGuidance(*network.guided_layers, D, PROMPT)
    stir(network.guidance, 0.3)
    return TwoStage(PromptGuidedProposer(network, SIZE), classifier, TextEncoder(read, ("{}",)), SIZE)


def _lmseg_with_sam() -> LMSegClassifier:
    torch.manual_seed(0)
    sam = SamEncoder(_SAM)
    return LMSegClassifier(make_lmseg(second=sam, sam_width=sam.width), 0.5)


TINY: dict[str, Callable[[], Model]] = {
    "EoMT, pooled ConvNeXt, ensemble": lambda: _two_stage("eomt", pooled(CONVNEXT, **ensemble())),
    "EoMT on DINOv3, pooled ViT": lambda: _two_stage("eomt_dinov3", pooled(_VIT)),
    "Mask2Former, FISA on images": lambda: _two_stage("mask2former", stir_fisa(make_fisa(mirrored=True))),
    "EoMT, FISA on crops": lambda: _two_stage("eomt", stir_fisa(make_fisa(view="crops", max_masks=5, bias=-1.0))),
    "Mask2Former with PMP, word ensemble": lambda: _guided(
        "mask2former", WordEnsembleClassifier(pooled(CONVNEXT, drops_nothing=False), 0.65)
    ),
    "EoMT with PMP, word ensemble with FISA": lambda: _guided("eomt", WordEnsembleClassifier(make_fisa(), 0.65)),
    "EoMT, LMSeg with SAM": lambda: _two_stage("eomt", _lmseg_with_sam()),
    "CAT-Seg": lambda: SemanticModel(make_lmseg(), TextEncoder(read, ("{}",)), max_components=None),
    "CAT-Seg in windows": lambda: SemanticModel(
        make_lmseg(windows=True), TextEncoder(read, ("{}",)), max_components=None
    ),
    "LMSeg, components": lambda: SemanticModel(
        make_lmseg(second=Edges()), TextEncoder(read, ("{}",)), max_components=20
    ),
    "OMTSeg": tiny_omtseg,
    "closed set": lambda: ClosedSet(PaddedProposer(plain("eomt"), SIZE), ensemble()["class_phrases"], SIZE),
}
NAMES = (*BUNDLED, *TINY)


def system(name: str, merge: MergeConfig | None = None) -> PanopticSegmenter:
    """In float32 on the CPU, whose segmenter keeps everything unless it is a bundled one's."""
    if name in BUNDLED:
        return build_segmenter(name, "cpu", REPRODUCIBLE)
    return PanopticSegmenter(TINY[name](), merge or EVERYTHING, torch.device("cpu"))


def words_of(name: str) -> tuple[str, ...]:
    """Some that the system reads."""
    return WORDS if name == "OMTSeg" else ("cup", "ball", "floor", "wall", "red cube")
