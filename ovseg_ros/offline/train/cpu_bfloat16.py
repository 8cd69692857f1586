"""Operations whose gradients are slow in bfloat16 on a CPU, in single precision: the same, rounded less.

Measured on cores with AVX512-BF16 by torch 2.9, bfloat16 against single precision, at sizes of the tabletop's training:
gradients of depth-wise convolutions with stride 24 ms against 1, of 5x5 ones 9 against 3, of attention 12 against 5.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode


class SingleWhereSlow(TorchFunctionMode):
    """Within it, under autocast on a CPU, these operations compute in single precision, whatever they are given."""

    def __torch_function__(
        self,
        function: Callable[..., Any],
        types: Sequence[type],
        arguments: Sequence[Any] = (),
        keywords: Mapping[str, Any] | None = None,
    ) -> Any:
        keywords = keywords or {}
        attends = function is F.scaled_dot_product_attention
        if not torch.is_autocast_enabled("cpu") or not (attends or _is_slow_convolution(function, arguments)):
            return function(*arguments, **keywords)
        with torch.autocast("cpu", enabled=False):
            found = function(*map(_single, arguments), **{key: _single(value) for key, value in keywords.items()})
        return found.to(torch.get_autocast_dtype("cpu"))


def _is_slow_convolution(function: Callable[..., Any], arguments: Sequence[Any]) -> bool:
    """Of `F.conv2d(images, weights, bias, stride, padding, dilation, groups)`, as modules call it."""
    if function is not F.conv2d or len(arguments) < 7:
        return False
    weights, strides, groups = arguments[1], arguments[3], arguments[6]
    return groups > 1 and (weights.shape[-1] > 3 or max(strides) > 1)


def _single(value: Any) -> Any:
    return value.float() if isinstance(value, Tensor) and value.is_floating_point() else value
