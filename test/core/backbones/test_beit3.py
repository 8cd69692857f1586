"""BEiT-3 agrees with torchscale and with timm under the same weights, and has the published counts and names."""

from dataclasses import replace
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor

from ovseg_ros.core.backbones.beit3 import UNUSED_ROWS, Beit3, Beit3Config, Tokens, resized_positions

SMALL = Beit3Config(
    image_size=(64, 64), width=48, layers=3, heads=4, feed_forward_width=96, words=50, text_length=30
)  # fmt: skip
BASE = Beit3Config(image_size=(224, 224), width=768, layers=12, heads=12, feed_forward_width=3072)
LARGE = Beit3Config(image_size=(224, 224))


@pytest.fixture(scope="module")
def both(torchscale_beit3: Any) -> tuple[Beit3, Any]:
    """Ours and torchscale's, with the same weights."""
    reference = torchscale_beit3(SMALL)
    model = Beit3(SMALL).eval()
    model.load_state_dict(reference.state_dict())  # strict: the names are the same
    return model, reference


def some_input(length: int = 7) -> tuple[Tensor, Tensor, Tensor]:
    """Images, token ids and which of these are padding: some at the start, in between, and at the end."""
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(3, 3, 64, 64, generator=generator)
    ids = torch.randint(0, 50, (3, length), generator=generator)
    is_padding = torch.zeros(3, length, dtype=torch.bool)
    is_padding[0, :2] = is_padding[1, 3] = is_padding[2, -2:] = True
    return images, ids, is_padding


def embedded(model: Beit3, images: Tensor | None, ids: Tensor | None) -> Tokens:
    return Tokens(
        None if images is None else model.embed_images(images),
        None if ids is None else model.embed_text(model.text_embed(ids)),
    )


@torch.no_grad()
@pytest.mark.parametrize("pads", [False, True])
@pytest.mark.parametrize("halves", ["image", "text", "both"])
def test_states_are_those_of_torchscale(both: tuple[Beit3, Any], halves: str, pads: bool) -> None:
    model, reference = both
    some_images, some_ids, some_padding = some_input()
    images = some_images if halves != "text" else None
    ids = some_ids if halves != "image" else None
    is_padding = some_padding if pads and ids is not None else None
    expected = reference(textual_tokens=ids, visual_tokens=images, text_padding_position=is_padding)["encoder_out"]
    states = model(embedded(model, images, ids), None if is_padding is None else ~is_padding)
    torch.testing.assert_close(torch.cat(states.parts, dim=1), expected, atol=1e-5, rtol=0)
    assert (states.image is None, states.text is None) == (images is None, ids is None)
    assert expected.std() > 0.1  # a comparison of something


@torch.no_grad()
def test_patches_are_those_of_timm() -> None:
    torch.manual_seed(0)
    model = Beit3(SMALL).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    reference: Any = timm.create_model(
        "beit3_base_patch16_224", img_size=64, embed_dim=48, depth=3, num_heads=4, mlp_ratio=2, num_classes=0,
        global_pool="",
    )  # fmt: skip
    from timm.models.vision_transformer import checkpoint_filter_fn

    published = {"model": {f"beit3.{key}": value for key, value in model.state_dict().items()}}
    mapped = checkpoint_filter_fn(published, reference)
    reference.load_state_dict({key.replace("layer_norm.", "norm."): value for key, value in mapped.items()})
    images = some_input()[0]
    states = model(embedded(model, images, None)).image
    torch.testing.assert_close(states, reference.eval()(images), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("config", "side", "count"),
    [(BASE, 224, 220_987_392), (LARGE, 224, 672_702_464), (BASE, 640, 222_065_664), (LARGE, 640, 674_140_160)],
)
def test_parameters_are_as_many_as_published(config: Beit3Config, side: int, count: int) -> None:
    with torch.device("meta"):
        model = Beit3(replace(config, image_size=(side, side)))
    assert sum(parameter.numel() for parameter in model.parameters()) == count


@pytest.mark.parametrize(("config", "keys"), [(BASE, 491), (LARGE, 971)])
def test_tensors_are_named_as_published(torchscale_beit3: Any, config: Beit3Config, keys: int) -> None:
    with torch.device("meta"):
        model, reference = Beit3(config), torchscale_beit3(config)
    assert len(model.state_dict()) == keys
    shapes, expected = ({key: value.shape for key, value in one.state_dict().items()} for one in (model, reference))
    assert shapes == expected


@torch.no_grad()
@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("places", [(0, 1), (2, 4), (5, 6), (0, 3, 6)])
def test_padding_changes_no_state(both: tuple[Beit3, Any], places: tuple[int, ...], fused: bool) -> None:
    model, _ = both
    images, ids, _ = some_input()
    present = torch.ones(ids.shape, dtype=torch.bool)
    present[:, list(places)] = False
    kept = present[0]
    tokens = embedded(model, images, ids)
    states = model(tokens, present, fused=fused)
    others = tokens._replace(text=torch.where(present[..., None], tokens.text, 1e3))  # type: ignore[arg-type]
    assert all(map(torch.equal, model(others, present, fused=fused), states))  # whatever stands there
    assert tokens.text is not None and states.text is not None
    without = model(tokens._replace(text=tokens.text[:, kept]), fused=fused)
    torch.testing.assert_close((states.image, states.text[:, kept]), tuple(without), atol=1e-5, rtol=0)
    if not fused:
        assert torch.equal(states.image, without.image)


@torch.no_grad()
def test_layers_leave_out_padding_that_nobody_zeroed(both: tuple[Beit3, Any]) -> None:
    """An adapter calls them one by one, without `Beit3.forward`."""
    model, _ = both
    images, ids, is_padding = some_input()
    tokens = embedded(model, images, ids)
    assert tokens.text is not None
    others = tokens._replace(text=torch.where(is_padding[..., None], 7.0, tokens.text))
    one, other = (model.layers[0](some, ~is_padding) for some in (tokens, others))
    assert torch.equal(one.image, other.image) and torch.equal(one.text[~is_padding], other.text[~is_padding])


@torch.no_grad()
def test_apart_image_and_text_do_not_see_each_other(both: tuple[Beit3, Any]) -> None:
    model, _ = both
    images, ids, _ = some_input()
    tokens = embedded(model, images, ids)
    apart, fused = model(tokens, fused=False), model(tokens)
    alone = model(tokens._replace(text=None)).image, model(tokens._replace(image=None)).text
    assert torch.equal(apart.image, alone[0]) and torch.equal(apart.text, alone[1])
    assert not torch.allclose(fused.image, apart.image) and not torch.allclose(fused.text, apart.text)


def test_positions_for_another_grid() -> None:
    torch.manual_seed(0)
    rows = torch.randn(1 + 14 * 14, 5)
    assert resized_positions(rows, (14, 14), (14, 14)) is rows
    resized = resized_positions(rows, (14, 14), (40, 32))
    assert torch.equal(resized[0], rows[0])  # the class token's
    maps = rows[1:].T.reshape(1, 5, 14, 14)
    expected = F.interpolate(maps, size=(40, 32), mode="bicubic", align_corners=False)[0]
    assert torch.equal(resized[1:].T.reshape(5, 40, 32), expected)
    # By hand: an edge, twice as fine; the centres of new rows lie a quarter of a cell off those of old ones.
    steps = torch.tensor([0.0, 0.0, 0.0, 1.0, 1.0, 1.0])
    rows = torch.cat([torch.zeros(1), steps.repeat_interleave(6)])[:, None]
    column = resized_positions(rows, (6, 6), (12, 12))[1:, 0].reshape(12, 12)[:, 5]

    def weight(distance: float) -> float:
        d, a = min(abs(distance), 2.0), -0.75
        return (a + 2) * d**3 - (a + 3) * d**2 + 1 if d <= 1 else a * (d**3 - 5 * d**2 + 8 * d - 4)

    by_hand = [sum(weight((i + 0.5) / 2 - 0.5 - j) for j in (3, 4, 5)) for i in range(3, 8)]
    torch.testing.assert_close(column[3:8], torch.tensor(by_hand))
    half = resized_positions(rows.half(), (6, 6), (12, 12))  # in float32 even so, and rounded once
    assert torch.equal(half[1:, 0], resized_positions(rows, (6, 6), (12, 12))[1:, 0].half())


@torch.no_grad()
def test_images_of_other_sizes_get_positions_of_their_own(both: tuple[Beit3, Any]) -> None:
    model, _ = both
    images = torch.randn(1, 3, 96, 32)
    rows = model.encoder.embed_positions.A.weight[UNUSED_ROWS:]
    tokens = model.embed_images(images)
    assert tokens.shape == (1, 1 + 6 * 2, 48)
    torch.testing.assert_close(tokens, model.vision_embed(images) + resized_positions(rows, (4, 4), (6, 2)))
    with pytest.raises(ValueError, match=r"multiples of 16 pixels, got \(64, 40\)"):
        model.embed_images(torch.zeros(1, 3, 64, 40))


@torch.no_grad()
@pytest.mark.parametrize(("length", "trained"), [(19, 10), (37, None), (41, 30), (31, 99), (5, 1)])
def test_text_longer_than_trained_gets_positions_in_between(length: int, trained: int | None) -> None:
    model = Beit3(SMALL)
    table = torch.nn.init.normal_(model.encoder.embed_positions.B.weight)[UNUSED_ROWS:]
    last = min(trained or 30, 30) - 1
    rows = model.embed_text(torch.zeros(2, length, 48), trained)
    assert torch.equal(rows[0], rows[1])
    assert torch.equal(rows[0, 0], table[0])
    torch.testing.assert_close(rows[0, -1], table[last])
    for place in range(length):
        exact = place * last / (length - 1)
        low = min(int(exact), max(last - 1, 0))
        expected = table[low] + (exact - low) * (table[min(low + 1, last)] - table[low])
        torch.testing.assert_close(rows[0, place], expected)


@torch.no_grad()
def test_text_as_long_as_trained_has_the_rows_themselves() -> None:
    model = Beit3(SMALL)
    table = torch.nn.init.normal_(model.encoder.embed_positions.B.weight)[UNUSED_ROWS:]
    for length, trained in ((10, 10), (9, 10), (30, None)):
        assert torch.equal(model.embed_text(torch.zeros(length, 48), trained), table[:length])


@torch.no_grad()
def test_fresh_positions_tell_neighbours_from_others() -> None:
    model = Beit3(replace(SMALL, image_size=(64, 96)))
    image, text = (
        one.weight[UNUSED_ROWS:] for one in (model.encoder.embed_positions.A, model.encoder.embed_positions.B)
    )
    grid = F.normalize(image[1:], dim=-1).unflatten(0, (4, 6))
    assert grid[1, 2] @ grid[1, 3] > grid[1, 2] @ grid[1, 5]
    assert grid[1, 2] @ grid[2, 2] > grid[1, 2] @ grid[3, 2]
    text = F.normalize(text, dim=-1)
    assert text[3] @ text[4] > text[3] @ text[9]
    torch.testing.assert_close(image[1:].norm(dim=-1), torch.ones(24), atol=0.05, rtol=0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"heads": 5}, "width 48 is no multiple of 4 and of heads 5"),
        ({"image_size": (64, 72)}, r"\[64, 72\]; expected multiples"),
    ],
)
def test_architectures_that_do_not_add_up(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(SMALL, **change)


@torch.no_grad()
def test_half_precision_gives_about_the_same(both: tuple[Beit3, Any]) -> None:
    model, _ = both
    images, ids, is_padding = some_input()
    exact = model(embedded(model, images, ids), ~is_padding)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        states = model(embedded(model, images, ids), ~is_padding)
    for one, other in zip(states, exact, strict=True):
        assert F.cosine_similarity(one.float(), other, dim=-1)[:, :5].mean() > 0.99


def test_gradients_reach_everything_that_is_read(both: tuple[Beit3, Any]) -> None:
    model, _ = both
    images, ids, _ = some_input()
    states = model(embedded(model, images, ids))
    sum(part.square().sum() for part in states.parts).backward()
    without = {name for name, parameter in model.named_parameters() if parameter.grad is None}
    assert without == {"vision_embed.mask_token"}
    model.zero_grad()


@pytest.mark.parametrize(("width", "heads"), [(128, 4), (64, 2), (60, 4), (20, 2)])
def test_the_heads_of_a_fresh_text_look_at_the_following_places(width: int, heads: int) -> None:
    config = Beit3Config(
        (32, 32), width=width, layers=2, heads=heads, feed_forward_width=8, words=4, text_length=40
    )  # fmt: skip
    model = Beit3(config)
    positions = model.encoder.embed_positions.B.weight[12:32]  # (places, D)
    attention = model.layers[0].self_attn
    query, key = (project.B.weight @ positions.T for project in (attention.q_proj, attention.k_proj))
    for head, (q, k) in enumerate(zip(query.chunk(heads), key.chunk(heads), strict=True)):
        likes = q.T @ k  # (places, places)
        assert likes[: 20 - heads].argmax(dim=1).tolist() == [place + head for place in range(20 - heads)]
