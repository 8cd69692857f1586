"""Engines that raise or give what is not finite: the next one runs the part, and the call is not lost."""

import pytest
import torch
from torch import Tensor
from toy_parts import ToyModel

from ovseg_ros.core.engine.fallback import Fallback
from ovseg_ros.core.engine.part import Part
from ovseg_ros.core.errors import ImageSizeError

PIXELS = torch.rand(1, 3, 8, 8)


class Failing:
    """Raises from its call number `works` on."""

    def __init__(self, part: Part, error: BaseException, works: int = 0) -> None:
        self.part, self.error, self.works, self.calls = part, error, works, 0

    def __call__(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        self.calls += 1
        if self.calls > self.works:
            raise self.error
        return self.part.module(*tensors)


@pytest.fixture
def part() -> Part:
    return ToyModel().parts[0]


def test_the_next_engine_takes_over_for_good(part: Part) -> None:
    told: list[str] = []
    first = Failing(part, torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 3 GiB\nand more"), works=1)
    second = Failing(part, RuntimeError(), works=9)
    fallback = Fallback(part, [("compile", first), ("cuda_graph", second)], told.append)
    wanted = part.module(PIXELS)
    for _ in range(4):
        for found, expected in zip(fallback(PIXELS), wanted, strict=True):
            torch.testing.assert_close(found, expected)
    assert (first.calls, second.calls, fallback.engine) == (2, 3, "cuda_graph")
    (line,) = told
    assert "masks" in line
    assert "compile: OutOfMemoryError: CUDA out of memory. Tried to allocate 3 GiB" in line
    assert "\n" not in line


def test_all_fail_in_one_call_and_one_line_says_so(part: Part) -> None:
    told: list[str] = []
    engines = [("compile", Failing(part, ValueError("one"))), ("cuda_graph", Failing(part, ValueError("two")))]
    fallback = Fallback(part, engines, told.append)
    for found, expected in zip(fallback(PIXELS), part.module(PIXELS), strict=True):
        assert torch.equal(found, expected)
    fallback(PIXELS)
    assert fallback.engine == "eager"
    assert len(told) == 1
    assert "one" in told[0]
    assert "two" in told[0]


def test_what_the_part_itself_cannot_do_is_no_engines_fault(part: Part) -> None:
    told: list[str] = []
    engine = Failing(part, RuntimeError("the engine's words"))
    fallback = Fallback(part, [("compile", engine)], told.append)
    with pytest.raises(RuntimeError, match="channels"):
        fallback(torch.rand(1, 5, 8, 8))
    assert fallback.engine == "compile"
    assert told == []


def test_images_of_a_size_that_it_was_not_made_for_cost_an_engine_nothing_else(part: Part) -> None:
    told: list[str] = []
    calls: list[int] = []

    def small_alone(*tensors: Tensor) -> tuple[Tensor, ...]:
        calls.append(tensors[0].shape[-1])
        if tensors[0].shape[-1] > 8:
            raise ImageSizeError("for cameras of 8x8")
        return part.module(*tensors)

    fallback = Fallback(part, [("onnx", small_alone)], told.append)
    large = torch.rand(1, 3, 8, 16)
    for pixels in (PIXELS, large, large, PIXELS):
        for found, expected in zip(fallback(pixels), part.module(pixels), strict=True):
            torch.testing.assert_close(found, expected)
    assert (calls, fallback.engine) == ([8, 16, 16, 8], "onnx")
    (line,) = told
    assert line.endswith("not run by onnx, which was not made for them: for cameras of 8x8")


def test_a_stop_is_a_stop(part: Part) -> None:
    fallback = Fallback(part, [("compile", Failing(part, KeyboardInterrupt()))], pytest.fail)
    with pytest.raises(KeyboardInterrupt):
        fallback(PIXELS)


def test_outputs_that_are_not_finite_count_while_checking(part: Part) -> None:
    def spoiled(*tensors: Tensor) -> tuple[Tensor, ...]:
        masks, queries = part.module(*tensors)
        return masks, queries * torch.nan

    told: list[str] = []
    fallback = Fallback(part, [("compile", spoiled)], told.append)
    fallback.is_checking = False
    assert fallback(PIXELS)[1].isnan().all()
    fallback.is_checking = True
    assert fallback(PIXELS)[1].isfinite().all()
    assert fallback.engine == "eager"
    assert "not finite" in told[0]


def test_infinities_of_the_parts_own_are_right() -> None:
    class Infinite(torch.nn.Module):
        def forward(self, tensor: Tensor) -> tuple[Tensor, ...]:
            return (tensor - torch.inf,)

    part = Part("infinite", Infinite(), (), ())
    fallback = Fallback(part, [("compile", part.module)], pytest.fail)
    assert fallback(PIXELS)[0].isneginf().all()
    assert fallback.engine == "compile"
