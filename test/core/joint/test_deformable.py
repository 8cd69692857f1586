"""Deformable attention: by hand, and as transformers' own."""

import torch
from transformers.models.mask2former.modeling_mask2former import (
    Mask2FormerPixelDecoderEncoderMultiscaleDeformableAttention as Published,
)

from ovseg_ros.core.backbones.deformable import DeformableAttention, layout_of

GRIDS = [(4, 6), (2, 3), (1, 2)]
CELLS = sum(rows * columns for rows, columns in GRIDS)
CPU = torch.device("cpu")


def attention(width: int = 8, levels: int = 3, value_width: int = 8) -> DeformableAttention:
    torch.manual_seed(0)
    return DeformableAttention(width, heads=4, levels=levels, points=4, value_width=value_width).eval()


def test_cells_have_their_middles_as_places() -> None:
    layout = layout_of([(2, 4), (1, 1)], CPU)
    first = [(x, y) for y in (0.25, 0.75) for x in (0.125, 0.375, 0.625, 0.875)]
    assert layout.places.tolist() == [list(place) for place in [*first, (0.5, 0.5)]]
    assert layout.cells.tolist() == [[0.25, 0.5], [1.0, 1.0]]
    assert layout.grids == [(2, 4), (1, 1)]


@torch.no_grad()
def test_without_offsets_it_reads_the_mean_of_bilinear_lookups() -> None:
    module = attention(value_width=4)
    torch.nn.init.zeros_(module.sampling_offsets.bias)  # weights begin as zeros, so all points count alike
    values, queries = torch.randn(2, CELLS, 8), torch.randn(2, 5, 8)
    places = torch.tensor([[0.1, 0.2], [0.5, 0.5], [0.9, 0.3], [0.0, 1.0], [0.66, 0.01]])
    lookups = []
    for level, (rows, columns) in zip(values.split([r * c for r, c in GRIDS], dim=1), GRIDS, strict=True):
        projected = module.value_proj(level).transpose(1, 2).unflatten(2, (rows, columns))
        lookups.append([[_bilinear(image, x, y) for x, y in places.tolist()] for image in projected])
    mean = torch.stack([torch.stack([torch.stack(row) for row in level]) for level in lookups]).mean(dim=0)
    read = module(queries, places, values, layout_of(GRIDS, CPU))
    torch.testing.assert_close(read, module.output_proj(mean))


def _bilinear(image: torch.Tensor, x: float, y: float) -> torch.Tensor:
    """(C,) of (C, h, w) at (x, y) in [0, 1]; nothing but zeros outside."""
    _, rows, columns = image.shape
    across, down = x * columns - 0.5, y * rows - 0.5
    total = torch.zeros(len(image))
    for row in range(rows):
        for column in range(columns):
            weight = max(0.0, 1 - abs(across - column)) * max(0.0, 1 - abs(down - row))
            total += weight * image[:, row, column]
    return total


@torch.no_grad()
def test_agrees_with_transformers_under_the_same_weights() -> None:
    ours = attention(width=16, value_width=16)
    theirs = Published(embed_dim=16, num_heads=4, n_levels=3, n_points=4)
    for parameter in ours.parameters():
        parameter.add_(0.3 * torch.randn_like(parameter))
    theirs.load_state_dict(ours.state_dict())
    layout, tokens, values = layout_of(GRIDS, CPU), torch.randn(2, CELLS, 16), torch.randn(2, CELLS, 16)
    reference = layout.places[None, :, None].expand(2, -1, 3, -1)
    wanted, _ = theirs(
        tokens, encoder_hidden_states=values, reference_points=reference, spatial_shapes_list=layout.grids
    )
    torch.testing.assert_close(ours(tokens, layout.places, values, layout), wanted, atol=1e-6, rtol=1e-5)


def test_begins_with_heads_that_look_in_as_many_directions() -> None:
    offsets = attention().sampling_offsets.bias.detach().view(4, 3, 4, 2)
    directions = torch.tensor([(1.0, 0.0), (0.0, 1.0), (-1.0, 0.0), (0.0, -1.0)])
    wanted = directions[:, None, None] * torch.arange(1, 5)[:, None]
    torch.testing.assert_close(offsets, wanted.expand(4, 3, 4, 2), atol=1e-6, rtol=0)


@torch.no_grad()
def test_places_stay_apart_in_bfloat16() -> None:
    grid = [(1, 300)]  # bfloat16 knows 128 numbers between a half and one
    layout = layout_of(grid, CPU)
    module = attention(width=4, levels=1, value_width=4)
    torch.nn.init.zeros_(module.sampling_offsets.bias)
    for layer in (module.value_proj, module.output_proj):
        layer.weight.copy_(torch.eye(4))
    steps = torch.arange(300.0)[None, :, None].remainder(2).expand(1, 300, 4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        read = module(torch.zeros(1, 300, 4), layout.places, steps, layout)
    torch.testing.assert_close(read.float(), steps, atol=0.01, rtol=0)
