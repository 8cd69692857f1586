"""Counts the bytes that a model writes in float32 outside the islands that are meant to: by shape, on any device."""

import traceback
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

ISLANDS = {
    "pixels": ("core/images.py", "core/classification/mask_views.py"),
    "cell grids": ("in grid_weights", "in _geometry", "in _overlap"),
    "text attention": ("core/text_attention.py",),
    "words": (
        "core/word_logits.py",
        "core/types.py",
        "in word_logits",
        "in prompt_logits",
        "in _word_logits",
        "in unit_names",
        "core/proposals/padded.py:",  # puts the logits of rows and of nothing side by side
        "core/joint/omtseg/model.py:",  # likewise
        "core/joint/semantic.py:",  # a map for each word
        "core/joint/closed_set.py:",
    ),
    "deformable sampling": ("core/backbones/deformable.py", "core/backbones/pixel_decoder.py"),
    "positions": ("in _places_of",),
    "ensemble": ("core/classification/ensemble.py", "core/classification/word_ensemble.py"),
    "scores of words": ("in _compared", "in name_masks", "in _with_windows", "in _probabilities"),
    "sums over words": ("in _summed",),  # of each cell, not of each word
    "interpolated positions": ("in _positions",),
    "merge": ("core/merge.py", "core/merge/"),
}
"""What computes in float32 whatever the weights are stored in: files, or functions by name."""

_WITH_STATISTICS = ("native_layer_norm", "native_group_norm", "native_batch_norm", "_scaled_dot_product")
"""Operations whose further results, of a row or a group each, are float32 on any device."""


class Float32Bytes(TorchDispatchMode):
    """While in it, adds up what each place outside the islands writes in float32; views write nothing.

    Attributes:
        written: bytes by `file:line in function`.
    """

    def __init__(self) -> None:
        super().__init__()
        self.written: Counter[str] = Counter()

    def __enter__(self) -> "Float32Bytes":
        # Without a device there is no fused attention; what stands for it is to stay in half precision as well.
        self._before = torch.backends.cuda.fp16_bf16_reduction_math_sdp_allowed()
        torch.backends.cuda.allow_fp16_bf16_reduction_math_sdp(True)
        return super().__enter__()  # type: ignore[no-any-return]

    def __exit__(self, *error: Any) -> None:
        torch.backends.cuda.allow_fp16_bf16_reduction_math_sdp(self._before)
        super().__exit__(*error)

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        given = {id(value) for value in tree_leaves((args, kwargs)) if isinstance(value, Tensor)}
        is_view = any(alias.alias_info is not None for alias in func._schema.returns)
        statistics = any(name in str(func) for name in _WITH_STATISTICS) and isinstance(result, tuple)
        for value in tree_leaves(result[:1] if statistics else result):
            if (
                isinstance(value, Tensor)
                and value.dtype == torch.float32
                and value.ndim
                and not is_view
                and id(value) not in given
            ):
                place = self._place()
                if place is not None:
                    self.written[place] += value.numel() * 4
        return result

    def _place(self) -> str | None:
        """The innermost line of this package; None inside an island."""
        frames = [frame for frame in traceback.extract_stack() if "ovseg_ros/core/" in frame.filename]
        lines = [f"{frame.filename.rpartition('ovseg_ros/')[2]}:{frame.lineno} in {frame.name}" for frame in frames]
        if any(mark in line for line in lines for marks in ISLANDS.values() for mark in marks):
            return None
        return lines[-1] if lines else "outside the package"
