"""LMSeg without SAM computes what CAT-Seg's own code computes, and so does an untrained one with SAM.

The numbers are of CAT-Seg's code (github.com/cvlab-kaist/CAT-Seg: `Aggregator`, `CLIP`, and what `CATSeg` does between
them) with the weights and inputs that are made here: 20 of each result, evenly spaced.
"""

import math
from pathlib import Path

import open_clip
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ovseg_ros.core.backbones.dense_clip import dense_features
from ovseg_ros.core.backbones.image_encoder import ImageEncoder
from ovseg_ros.core.backbones.open_clip_model import encode_prompts
from ovseg_ros.core.scoring.lmseg.cat_seg_weights import load_cat_seg
from ovseg_ros.core.scoring.lmseg.config import FusionConfig, LMSegConfig, UpsamplingConfig
from ovseg_ros.core.scoring.lmseg.scorer import Encoded, LMSegScorer, ScoredWords

# fmt: off
PROJECTED = [
    7.978994, 7.62265, -4.110699, 10.362252, 8.222709, -11.539888, -27.261158, -3.630539, 3.659257, 7.99534,
    29.176729, 16.177843, -10.299048, -1.941011, 11.978397, -23.228577, -1.921333, -0.30486, -8.06357, -14.594404,
]
SKIP_0 = [
    18.459837, 13.199121, 9.787664, -1.019934, 3.631838, 15.042147, 10.836212, -14.139382, 6.412547, 4.668141,
    1.875942, 2.497921, -0.005089, -6.677595, -13.386867, -2.582167, -1.853187, -5.724547, 7.677255, -1.20142,
]
SKIP_1 = [
    14.082801, 19.210436, 9.297265, 10.553428, 2.328157, 16.434269, 17.369705, -7.829093, 10.63055, 12.657747,
    -7.738701, 6.378167, 7.683028, -16.246689, -29.973631, -4.745897, 9.252091, 0.132505, 5.92251, 5.963465,
]
TEXT = [
    0.219667, 0.212172, 0.070896, 0.109783, -0.089939, -0.19481, 0.250534, -0.094223, -0.066935, 0.188669, -0.123745,
    0.044548, 0.076364, -0.068903, 0.031275, -0.1836, 0.130471, 0.015973, -0.137613, -0.012572,
]
WHOLE = [
    -0.383998, -0.732235, 1.117836, 0.587385, 1.299108, 0.564647, -0.117894, -1.220501, -0.202858, 1.065634, 1.092242,
    -1.096754, -0.242226, 0.201516, -1.571256, 1.612215, 0.236826, 0.187422, 1.319163, 0.543431,
]
SCORES: dict[tuple[int, int, tuple[int, int]], list[float]] = {
    (5, 1, (8, 8)): [
        -0.199169, -0.929822, 1.544032, -3.243246, -0.352754, -0.716884, 1.36491, 0.721559, 0.891357, 0.544372,
        -0.56215, 0.207363, -2.985356, 0.09205, 1.758348, -0.425119, 1.977781, -0.820073, -2.455039, 0.329408,
    ],
    (5, 2, (8, 8)): [
        -0.227048, -1.701959, 1.576822, -2.786238, -1.936792, -0.024111, 1.453005, 0.930713, 1.283172, 0.690563,
        -0.848112, 0.893652, -2.186484, -0.330802, 1.957687, -0.70296, 2.977608, -0.769755, -2.483794, 0.529462,
    ],
    (256, 1, (8, 8)): [
        -0.185474, -0.618685, -1.596651, -2.115182, -1.524147, 2.87778, -0.225876, -1.903929, -2.935564, -1.925123,
        -0.874119, 0.415109, 2.481746, -0.940787, 0.177622, -0.666542, 0.373872, 0.788383, 0.801173, 0.71309,
    ],
    (256, 2, (8, 8)): [
        -0.275437, -0.533839, -1.921826, -2.623961, -0.896195, 1.355055, 0.258123, -1.515461, -1.938955, -2.021254,
        -1.333721, -0.829751, 2.412745, -2.271842, 0.501617, 0.137312, 0.220659, 0.07237, 0.910388, 0.391447,
    ],
    (300, 1, (8, 8)): [
        -100.0, -1.755636, 2.252471, 2.739893, -100.0, 0.35866, -0.889727, 1.557715, -0.743805, 1.316632, 0.01351,
        3.516626, -1.23405, -100.0, -100.0, 2.262117, -0.915917, -0.445444, 3.092549, 0.428905,
    ],
    (300, 2, (8, 8)): [
        -100.0, -1.707574, 1.684078, 2.447157, -100.0, -0.023148, -1.974428, 1.676589, -0.937008, 0.455033, 0.67722,
        2.834756, -1.368612, -100.0, -100.0, 2.534643, -0.731186, 0.57044, 2.082394, 0.402989,
    ],
    (5, 1, (8, 12)): [
        -0.477136, -0.415842, -0.748106, 0.112232, 0.654657, -0.261807, 1.301819, -2.664518, 0.085345, -0.133419,
        -0.70191, 1.343282, 0.112874, -2.242555, -1.860867, -1.170103, 0.040021, -0.116573, -0.045943, 0.712119,
    ],
    (5, 2, (4, 4)): [
        -0.825382, -0.557976, 0.606511, 0.330559, 2.379932, 0.702997, -1.180124, -2.107456, 2.172312, 0.854414,
        -0.905937, -0.590572, -0.0159, 2.851768, -0.339219, 0.238426, -0.915352, 0.20733, 2.6479, -0.211197,
    ],
}
# fmt: on

D, LAYERS = 24, 2
PREFIX = "sem_seg_head.predictor."
IN_CLIP = {
    ".attn.query.weight": ".attn.q_proj_weight",
    ".attn.key.weight": ".attn.k_proj_weight",
    ".attn.value.weight": ".attn.v_proj_weight",
    ".attn.query.bias": ".attn.in_proj_bias",  # of all three
}
OUTSIDE = {
    "embed.": "transformer.conv1.",
    "image_guidance.": "transformer.guidance_projection.0.",
    "word_guidance.": "transformer.text_guidance_projection.0.",
    "decoder.guidance.0.": "transformer.decoder_guidance_projection.0.0.",
    "decoder.guidance.1.": "transformer.decoder_guidance_projection.1.0.",
    "decoder.skips.0.": "upsample1.",
    "decoder.skips.1.": "upsample2.",
    "decoder.steps.0.": "transformer.decoder1.",
    "decoder.steps.1.": "transformer.decoder2.",
    "decoder.head.": "transformer.head.",
    "layers.": "transformer.layers.",
    ".guidance_norm.": ".swin_block.guidance_norm.",
    ".spatial.0.mlp.0.": ".swin_block.block_1.mlp.fc1.",
    ".spatial.0.mlp.2.": ".swin_block.block_1.mlp.fc2.",
    ".spatial.1.mlp.0.": ".swin_block.block_2.mlp.fc1.",
    ".spatial.1.mlp.2.": ".swin_block.block_2.mlp.fc2.",
    ".spatial.0.": ".swin_block.block_1.",
    ".spatial.1.": ".swin_block.block_2.",
    ".by_word.mlp.": ".attention.MLP.",
    ".by_word.query.": ".attention.attention.q.",
    ".by_word.key.": ".attention.attention.k.",
    ".by_word.value.": ".attention.attention.v.",
    ".by_word.padding_guidance": ".attention.padding_guidance",
    ".by_word.padding": ".attention.padding_tokens",
    ".by_word.": ".attention.",
    ".query.": ".attn.q.",
    ".key.": ".attn.k.",
    ".value.": ".attn.v.",
    ".out.": ".attn.proj.",
    ".conv1.": ".conv.double_conv.0.",
    ".norm1.": ".conv.double_conv.1.",
    ".conv2.": ".conv.double_conv.3.",
    ".norm2.": ".conv.double_conv.4.",
}
"""By parts of our names, those of CAT-Seg's; in this order, the last four of the decoder alone."""


def published_name(name: str) -> str | None:
    """What CAT-Seg calls a tensor; None if it is in another one."""
    if name.endswith((".attn.key.bias", ".attn.value.bias")):
        return None
    if name.startswith(("visual.", "text.")):
        for ours, theirs in IN_CLIP.items():
            name = name.replace(ours, theirs)
        return f"{PREFIX}clip_model.{name.removeprefix('text.')}"
    in_decoder = name.startswith("decoder.")
    for ours, theirs in OUTSIDE.items():
        if in_decoder or "double_conv" not in theirs:
            name = name.replace(ours, theirs)
    return name if name.startswith("upsample") else PREFIX + name


def published_state(scorer: LMSegScorer) -> dict[str, Tensor]:
    """A CAT-Seg's tensors by the names in its file, random: in the names' order from one generator."""
    shapes = {published_name(name): tuple(value.shape) for name, value in scorer.state_dict().items()}
    wanted = {name: shape for name, shape in shapes.items() if name is not None and ".fusion" not in name}
    wanted[f"{PREFIX}clip_model.logit_scale"] = ()
    generator, state = torch.Generator().manual_seed(0), {}
    for name in sorted(wanted):
        shape = wanted[name]
        if name.endswith("in_proj_bias"):
            shape = (3 * shape[0],)
        elif ".padding_" in name:
            shape = (1, 1, *shape)
        scale = 0.1 if name.endswith("bias") else 2 * math.prod(shape[1:]) ** -0.5
        state[name] = torch.randn(shape, generator=generator) * scale
    return state


class Second(ImageEncoder):
    """In SAM's place."""

    width = 7

    def pixels(self, images: Tensor) -> Tensor:
        return images

    def features(self, pixels: Tensor) -> Tensor:
        return randn(9, len(pixels), 7, 5, 5)


def make(folder: Path, grid: tuple[int, int] = (8, 8), fusion: FusionConfig | None = None) -> LMSegScorer:
    """A small scorer with a published file's weights; with a second encoder if there is fusion."""
    torch.manual_seed(1)  # of what the file does not have
    clip = open_clip.CustomTextCLIP(
        embed_dim=D,
        vision_cfg={"image_size": 32, "layers": 3, "width": 128, "head_width": 64, "patch_size": 8},
        text_cfg={"context_length": 12, "vocab_size": 50, "width": 64, "heads": 2, "layers": 2},
        quick_gelu=True,
    )
    config = LMSegConfig(
        image_size=(8 * grid[0], 8 * grid[1]),
        skip_layers=(0, 1),
        width=32,
        layers=LAYERS,
        window=4,
        guidance_width=16,
        upsampling=UpsamplingConfig(widths=(32, 16), skip_widths=(16, 8), guidance_widths=(16, 8)),
        fusion=fusion or FusionConfig(),
    )
    second = None if fusion is None else Second()
    scorer = LMSegScorer(clip.visual, clip.text, second, config, sam_width=7, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    path = folder / "model.pth"
    torch.save({"model": published_state(scorer), "iteration": 80_000}, path)
    load_cat_seg(str(path), scorer)
    return scorer.eval()


def randn(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def words_of(scorer: LMSegScorer, vectors: Tensor) -> ScoredWords:
    each = torch.arange(len(vectors))
    return scorer.words(vectors, each, each, each)


def assert_golden(result: Tensor, golden: list[float]) -> None:
    flat = result.flatten()
    sampled = flat[torch.linspace(0, len(flat) - 1, len(golden)).long()]
    torch.testing.assert_close(sampled, torch.tensor(golden), atol=5e-5, rtol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize(("count", "pooling", "grid"), SCORES)
def test_scores_are_cat_segs(tmp_path: Path, count: int, pooling: int, grid: tuple[int, int]) -> None:
    """Fewer words than 256 are padded, more are cut; the attention over words averages cells in training only."""
    scorer = make(tmp_path, grid).train(pooling == 2)
    skips = (randn(2, 2, 128, *grid), randn(3, 2, 128, *grid))
    words = words_of(scorer, F.normalize(randn(4, count, D), dim=-1))
    scores = scorer.score(Encoded(randn(1, 2, D, *grid), skips, None), words)
    everywhere = scores.words[..., None, None].expand_as(scores.logits)
    logits = torch.full((2, count, 4 * grid[0], 4 * grid[1]), -100.0).scatter(1, everywhere, scores.logits)
    assert_golden(logits, SCORES[count, pooling, grid])


@torch.no_grad()
def test_clips_features_are_cat_segs(tmp_path: Path) -> None:
    """Of images larger than CLIP's own, whose positions are interpolated."""
    features = dense_features(make(tmp_path).visual, randn(5, 2, 3, 64, 64), (0, 1))
    assert_golden(features.projected, PROJECTED)
    for skip, golden in zip(features.skips, (SKIP_0, SKIP_1), strict=True):
        assert_golden(skip, golden)


TOKENS = torch.tensor([[48, 3, 7, 49, *[0] * 8], [48, 9, 1, 2, 30, 31, 32, 33, 34, 35, 36, 49], [48, 49, *[0] * 10]])


@torch.no_grad()
@pytest.mark.parametrize(
    "fusion",
    [
        None,
        FusionConfig(),
        FusionConfig("scalar", 0.1),
        FusionConfig("channel", 0.9),
        FusionConfig("pixel"),
        FusionConfig("fixed", 0.3),
        FusionConfig("concat"),
    ],
    ids=str,
)
def test_an_untrained_lmseg_is_cat_seg_from_pixels_and_tokens_on(tmp_path: Path, fusion: FusionConfig | None) -> None:
    scorer = make(tmp_path, fusion=fusion)
    clip = open_clip.CustomTextCLIP(D, {"width": 8, "layers": 1, "head_width": 8}, {"width": 8, "heads": 1})
    clip.text = scorer.text
    vectors = encode_prompts(clip, lambda sentences: TOKENS, ["", "", ""])
    assert_golden(vectors, TEXT)
    assert_golden(scorer(randn(5, 2, 3, 64, 64), words_of(scorer, vectors)).logits, WHOLE)
