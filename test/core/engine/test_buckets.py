"""Parts in few shapes: filled up and cut again, outputs are what they were."""

import pytest
import torch
from torch import Tensor
from toy_parts import WIDTH, Reading, ToyModel

from ovseg_ros.core.engine.buckets import Bucketed, bucket
from ovseg_ros.core.engine.part import Part, Port


@pytest.mark.parametrize(
    ("axis", "lengths"),
    [
        ("images", {1: 1, 2: 2, 3: 4, 5: 8, 9: 16}),
        ("crops", {0: 8, 8: 8, 9: 16, 32: 32, 33: 64}),
        ("masks", {100: 100, 65: 100, 101: 128}),
        ("words", {1: 16, 17: 32, 1203: 2048, 16385: 32768}),
    ],
)
def test_lengths(axis: str, lengths: dict[int, int]) -> None:
    assert {length: bucket(axis, length) for length in lengths} == lengths


def test_few_shapes_and_the_same_outputs() -> None:
    part = ToyModel().parts[1]
    seen = set()

    def run(*tensors: Tensor) -> tuple[Tensor, ...]:
        seen.add(tuple(tuple(tensor.shape) for tensor in tensors))
        return part.module(*tensors)

    bucketed = Bucketed(part, run)
    for images, words in ((1, 1), (1, 5), (3, 16), (4, 33), (3, 60)):
        tensors = torch.randn(images, 6, WIDTH), torch.randn(words, WIDTH), torch.zeros(words)
        for found, wanted in zip(bucketed(*tensors), part.module(*tensors), strict=True):
            assert found.shape == wanted.shape
            torch.testing.assert_close(found, wanted)
    assert len(seen) == 3


def test_masks_of_bool_are_filled_and_what_fits_is_not_copied() -> None:
    class Counted(torch.nn.Module):
        def forward(self, inside: Tensor) -> tuple[Tensor, ...]:
            return (inside,)

    module = Counted()
    bucketed = Bucketed(Part("count", module, (Port("inside", {0: "crops"}),), (Port("same", {0: "crops"}),)), module)
    inside = torch.ones(3, 4, dtype=torch.bool)
    (found,) = bucketed(inside)
    assert found.dtype == torch.bool
    assert torch.equal(found, inside)
    full = torch.ones(8, 4)
    assert bucketed(full)[0].data_ptr() == full.data_ptr()


def test_axes_of_what_nobody_knows_are_refused() -> None:
    part = Part("odd", Reading(), (Port("queries", {0: "spoons"}),), ())
    with pytest.raises(KeyError, match="spoons"):
        Bucketed(part, part.module)
