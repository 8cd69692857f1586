"""The ViT-Adapter: nothing goes in through shut gates, what comes out is what the paper says, at its scales."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from tiny_omtseg import TINY, tiny_network
from torch import Tensor

from ovseg_ros.core.backbones.beit3 import Beit3, Tokens
from ovseg_ros.core.backbones.deformable import layout_of
from ovseg_ros.core.joint.omtseg import adapter as adapter_module
from ovseg_ros.core.joint.omtseg.adapter import AdaptedEncoder, Features, PlainEncoder
from ovseg_ros.core.joint.omtseg.config import AdapterConfig
from ovseg_ros.core.joint.omtseg.network import OMTSegNetwork

SIZES = [(64, 96), (32, 32), (96, 32)]
IDS = torch.tensor([0, 5, 9, 4, 6, 10, 4, 2])


def inputs(network: OMTSegNetwork, size: tuple[int, int], batch: int = 2) -> tuple[Tensor, Tensor]:
    torch.manual_seed(2)
    text = network.encoder.embed_text(network.encoder.text_embed(IDS)).expand(batch, -1, -1)
    return torch.randn(batch, 3, *size), text


def read_by_extractors(network: OMTSegNetwork, images: Tensor, text: Tensor) -> tuple[Features, list[Tensor]]:
    """Features, and the patches' states that each extractor was shown."""
    shown: list[Tensor] = []
    hooks = [
        extractor.register_forward_pre_hook(lambda _, arguments: shown.append(arguments[2]))
        for extractor in network.adapter.extractors
    ]
    features = network.adapter(network.encoder, images, text, fused=True)
    for hook in hooks:
        hook.remove()
    return features, shown


def test_has_the_published_number_of_parameters() -> None:
    with torch.device("meta"):
        adapter = AdaptedEncoder(1024, AdapterConfig())
    assert sum(parameter.numel() for parameter in adapter.parameters()) == 23_236_800


@pytest.mark.parametrize("size", SIZES)
@torch.no_grad()
def test_shut_gates_leave_every_token_as_the_encoder_alone_has_it_to_the_bit(size: tuple[int, int]) -> None:
    network = tiny_network()
    images, text = inputs(network, size)
    tokens, states = Tokens(network.encoder.embed_images(images), text), []
    for layer in network.encoder.layers:
        tokens = layer(tokens)
        states.append(tokens.image[:, 1:])
    open_gates, _ = read_by_extractors(network, images, text)
    for injector in network.adapter.injectors:
        injector.gate.zero_()
    shut_gates, shown = read_by_extractors(network, images, text)
    plain = network.encoder.normalised(tokens)
    assert torch.equal(shut_gates.text, plain.text)
    assert not torch.allclose(open_gates.text, plain.text, atol=1e-3)
    # One layer makes a stage here; the last stage has two more extractors, which see the same.
    assert len(shown) == 6
    for state, wanted in zip(shown, [*states, states[-1], states[-1]], strict=True):
        assert torch.equal(state, wanted)


@pytest.mark.parametrize("size", SIZES)
@torch.no_grad()
def test_maps_are_of_a_quarter_to_a_thirty_second_of_the_image(size: tuple[int, int]) -> None:
    network = tiny_network()
    for encoder in (network.adapter, PlainEncoder(32)):
        features = encoder(network.encoder, *inputs(network, size), fused=True)
        assert [one.shape for one in features.maps] == [(2, 32, size[0] // s, size[1] // s) for s in (4, 8, 16, 32)]
        assert features.text.shape == (2, len(IDS), 32)


@torch.no_grad()
def test_each_map_is_a_level_plus_the_states_of_its_stage() -> None:
    network = tiny_network()
    images, text = inputs(network, (64, 96))
    pyramids: list[Tensor] = []
    network.adapter.extractors[-1].register_forward_hook(lambda _, arguments, result: pyramids.append(result))
    features, shown = read_by_extractors(network, images, text)
    (pyramid,) = pyramids
    levels = pyramid.transpose(1, 2).split([8 * 12, 4 * 6, 2 * 3], dim=2)
    second, third, fourth = (
        level.unflatten(2, grid) for level, grid in zip(levels, [(8, 12), (4, 6), (2, 3)], strict=True)
    )
    first = network.adapter.prior(images)[0] + network.adapter.up(second)
    for stage, (level, norm) in enumerate(zip([first, second, third, fourth], network.adapter.norms, strict=True)):
        state = shown[stage].transpose(1, 2).unflatten(2, (4, 6))
        whole = level + F.interpolate(state, size=level.shape[2:], mode="bilinear", align_corners=False)
        mean, variance = whole.mean(dim=1, keepdim=True), whole.var(dim=1, keepdim=True, unbiased=False)
        wanted = (whole - mean) / (variance + 1e-6).sqrt() * norm.weight[:, None, None] + norm.bias[:, None, None]
        torch.testing.assert_close(features.maps[stage], wanted, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_an_extractors_convolution_stays_within_its_level() -> None:
    extractor = tiny_network().adapter.extractors[0]
    grids = [(4, 6), (2, 3), (1, 2)]
    layout, patch_layout = layout_of(grids, torch.device("cpu")), layout_of([(2, 3)], torch.device("cpu"))
    torch.nn.init.zeros_(extractor.attention.output_proj.weight)
    torch.nn.init.zeros_(extractor.attention.output_proj.bias)
    pyramid = torch.randn(1, 32, 32)
    hidden = extractor.fc1(extractor.feed_forward_norm(pyramid))[0]
    wanted, start = torch.zeros_like(hidden), 0
    kernel, bias = extractor.depthwise.weight, extractor.depthwise.bias
    for rows, columns in grids:
        for row in range(rows):
            for column in range(columns):
                cell = bias.clone()
                for down in (-1, 0, 1):
                    for right in (-1, 0, 1):
                        y, x = row + down, column + right
                        if 0 <= y < rows and 0 <= x < columns:
                            cell += kernel[:, 0, down + 1, right + 1] * hidden[start + y * columns + x]
                wanted[start + row * columns + column] = cell
        start += rows * columns
    added = F.linear(F.gelu(wanted), extractor.fc2.weight, extractor.fc2.bias)
    result = extractor(pyramid, layout, torch.randn(1, 6, 32), patch_layout)
    torch.testing.assert_close(result, pyramid + added[None], atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_an_injector_adds_what_patches_read_times_its_gate() -> None:
    injector = tiny_network().adapter.injectors[1]
    layout, patch_layout = (
        layout_of([(4, 6), (2, 3), (1, 2)], torch.device("cpu")),
        layout_of([(2, 3)], torch.device("cpu")),
    )
    patches, pyramid = torch.randn(2, 6, 32), torch.randn(2, 32, 32)
    once = injector(patches, patch_layout, pyramid, layout) - patches
    injector.gate.mul_(2)
    torch.testing.assert_close(injector(patches, patch_layout, pyramid, layout) - patches, 2 * once)


def test_begins_as_published() -> None:
    torch.manual_seed(0)
    adapter = AdaptedEncoder(256, AdapterConfig())
    assert all(bool((injector.gate == 1e-6).all()) for injector in adapter.injectors)
    extractor = adapter.extractors[0]
    wanted = [  # what leads out of a cell: kernel times outputs, in the depthwise one a single output
        (adapter.level_embed, 1.0), (adapter.prior.stem[0].weight, (2 / (9 * 64)) ** 0.5),
        (adapter.prior.out[3].weight, (2 / 256) ** 0.5), (adapter.up.weight, (2 / (4 * 256)) ** 0.5),
        (extractor.depthwise.weight, (2 / 9) ** 0.5), (extractor.fc1.weight, 0.02), (extractor.fc2.weight, 0.02),
    ]  # fmt: skip
    for weight, deviation in wanted:
        assert float(weight.detach().std()) == pytest.approx(deviation, rel=0.1)
    # Over tokens as over maps, norms divide by what is published.
    norms = {type(module): module.eps for module in adapter.modules() if "Norm" in type(module).__name__}
    assert {kind.__name__: eps for kind, eps in norms.items()} == {"LayerNorm": 1e-5, "LayerNorm2d": 1e-6}


@torch.no_grad()
def test_without_an_adapter_maps_are_the_states_of_four_depths() -> None:
    config = replace(TINY, adapter=None, encoder=replace(TINY.encoder, layers=8))
    torch.manual_seed(0)
    network = OMTSegNetwork(config, Beit3(config.encoder)).eval()
    images, text = inputs(network, (64, 96))
    tokens, states = Tokens(network.encoder.embed_images(images), text), []
    for layer in network.encoder.layers:
        tokens = layer(tokens)
        states.append(tokens.image[:, 1:].transpose(1, 2).unflatten(2, (4, 6)))
    features = network.adapter(network.encoder, images, text, fused=True)
    for one, state in zip(features.maps, states[1::2], strict=True):
        resized = F.interpolate(state, size=one.shape[2:], mode="bilinear", align_corners=False)
        wanted = F.layer_norm(resized.permute(0, 2, 3, 1), (32,), eps=1e-6).permute(0, 3, 1, 2)
        torch.testing.assert_close(one, wanted, atol=1e-5, rtol=1e-5)
    assert torch.equal(features.text, network.encoder.normalised(tokens).text)


def test_every_layer_is_in_one_stage() -> None:
    layers = list(range(24))
    assert [adapter_module._stage(layers, stage) for stage in range(4)] == [layers[i : i + 6] for i in (0, 6, 12, 18)]
