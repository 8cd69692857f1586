"""Two encoders as one: CLIP's alone before any training, whatever the share, and what trains from there."""

import pytest
import torch
import torch.nn.functional as F
from lmseg_support import SECOND_WIDTH, D
from torch import Tensor, nn

from ovseg_ros.core.config import from_mapping
from ovseg_ros.core.errors import ConfigError
from ovseg_ros.core.scoring.lmseg.config import FusionConfig
from ovseg_ros.core.scoring.lmseg.fusion import Fusion

KINDS = ("scalar", "channel", "pixel", "fixed", "concat")


def fusion(kind: str, share: float = 0.5, *, is_trained: bool = False) -> Fusion:
    torch.manual_seed(0)
    made = Fusion(FusionConfig(kind, share), D, SECOND_WIDTH)
    if is_trained:
        with torch.no_grad():
            for parameter in made.parameters():
                parameter.add_(0.3 * torch.randn_like(parameter))
    return made


def features() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(2, D, 4, 6, generator=generator), torch.randn(2, SECOND_WIDTH, 9, 7, generator=generator)


def adapted(made: Fusion, second: Tensor) -> Tensor:
    """What is added to CLIP's features, step by step: (B, D, 4, 6)."""
    resized = F.interpolate(second, (4, 6), mode="bilinear", align_corners=False).permute(0, 2, 3, 1)
    normalised = F.layer_norm(resized, (SECOND_WIDTH,), made.norm.weight, made.norm.bias)
    return (normalised @ made.project.weight.T + made.project.bias).permute(0, 3, 1, 2)


@pytest.mark.parametrize("share", [0.001, 0.05, 0.3, 0.95])
@pytest.mark.parametrize("kind", KINDS)
def test_before_any_training_features_are_clips(kind: str, share: float) -> None:
    clip, second = features()
    assert fusion(kind, share)(clip, second).equal(clip)


@pytest.mark.parametrize("kind", KINDS)
def test_trained_features_by_hand(kind: str) -> None:
    made, (clip, second) = fusion(kind, 0.3, is_trained=True), features()
    added, both = adapted(made, second), None
    match kind:
        case "fixed":
            share = torch.tensor(0.3)
        case "scalar" | "channel":
            share = made.share_logit.sigmoid()
            assert share.shape == ((), (D, 1, 1))[kind == "channel"]
        case "pixel":
            both = torch.cat([clip, added], dim=1)
            share = (torch.einsum("bcyx,c->byx", both, made.predict.weight[0, :, 0, 0]) + made.predict.bias).sigmoid()
            share = share[:, None]
        case _:
            weight = made.mix.weight[..., 0, 0]
            mixed = torch.einsum("bcyx,dc->bdyx", torch.cat([clip, added], dim=1), weight)
            torch.testing.assert_close(made(clip, second), mixed, atol=1e-5, rtol=1e-4)
            return
    share = share.clamp(min=0.05)
    expected = (share * clip + (1 - share) * added) / share
    torch.testing.assert_close(made(clip, second), expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_all_learns_in_two_steps(kind: str) -> None:
    """The second encoder too, though the adapter begins at zero: its gradient comes with the second step."""
    made, (clip, second) = fusion(kind), features()
    target = torch.randn(clip.shape, generator=torch.Generator().manual_seed(2))
    optimizer = torch.optim.SGD(made.parameters(), lr=0.1)
    second.requires_grad_()
    before = {name: value.clone() for name, value in made.named_parameters()}
    for step in range(2):
        optimizer.zero_grad()
        (1 - F.cosine_similarity(made(clip, second), target, dim=1)).mean().backward()
        assert all(torch.isfinite(value.grad).all() for value in made.parameters() if value.grad is not None)
        assert bool(second.grad.abs().sum() > 0) == (step > 0)  # type: ignore[union-attr]
        optimizer.step()
    assert all(not value.equal(before[name]) for name, value in made.named_parameters())


def test_without_clip_the_second_encoder_alone_counts_and_learns() -> None:
    made, (clip, second) = fusion("fixed", 0.0), features()
    found = made(clip, second)
    torch.testing.assert_close(F.normalize(found, dim=1), F.normalize(adapted(made, second), dim=1))
    F.cosine_similarity(found, clip, dim=1).mean().backward()
    for parameter in made.parameters():
        assert torch.isfinite(parameter.grad).all()  # type: ignore[arg-type]
        assert parameter.grad.abs().sum() > 0  # type: ignore[union-attr]


def test_clip_alone_does_not_look_at_the_second_encoder() -> None:
    made, (clip, second) = fusion("fixed", 1.0, is_trained=True), features()
    assert made(clip, second).equal(clip)


@pytest.mark.parametrize("kind", KINDS)
def test_images_of_a_batch_do_not_see_each_other(kind: str) -> None:
    made, (clip, second) = fusion(kind, is_trained=True), features()
    torch.testing.assert_close(made(clip, second)[1:], made(clip[1:], second[1:]))


@pytest.mark.parametrize(("kind", "share"), [("scalar", 0.0), ("channel", 1.0), ("pixel", 0.0)])
def test_shares_that_learn_nothing_are_refused(kind: str, share: float) -> None:
    with pytest.raises(ConfigError, match=r"from where a sigmoid learns nothing; expected .* or kind: fixed"):
        from_mapping(FusionConfig, {"kind": kind, "clip_share": share}, "fusion")


def test_on_the_meta_device_nothing_is_allocated() -> None:
    for kind in KINDS:
        with torch.device("meta"):
            made: nn.Module = fusion(kind)
        assert {value.device.type for value in (*made.parameters(), *made.buffers())} == {"meta"}
