"""Graphs by shape, the last used kept; captured by a stand-in, as only a GPU captures."""

from collections.abc import Sequence
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from ovseg_ros.core.engine.graphs import CudaGraphs
from ovseg_ros.core.engine.part import Run


def test_one_graph_a_shape_and_the_last_used_are_kept() -> None:
    captured = []

    def capture(run: Run, tensors: Sequence[Tensor]) -> Run:
        captured.append(tuple(tensors[0].shape))
        return run

    graphs = CudaGraphs(lambda tensor: (2 * tensor,), most=2, capture=capture)

    def call(*lengths: int) -> None:
        for length in lengths:
            tensor = torch.ones(length)
            assert torch.equal(graphs(tensor)[0], 2 * tensor)

    call(1, 2, 1, 2)
    assert captured == [(1,), (2,)]
    call(1, 3, 1)  # 3 takes the place of 2, which was used longest ago
    assert captured == [(1,), (2,), (3,)]
    call(2)
    assert captured == [(1,), (2,), (3,), (2,)]
    graphs(torch.ones(2, dtype=torch.float16))
    assert len(captured) == 5  # another type is another graph


def test_a_failed_capture_leaves_nothing_behind() -> None:
    tries = []

    def capture(run: Run, tensors: Sequence[Tensor]) -> Run:
        tries.append(1)
        if len(tries) == 1:
            raise torch.OutOfMemoryError("no room")
        return run

    graphs = CudaGraphs(lambda tensor: (tensor,), capture=capture)
    for expected in (1, 2, 2):
        try:
            graphs(torch.ones(3))
        except torch.OutOfMemoryError:
            assert expected == 1
        assert len(tries) == expected


def test_parts_are_captured_on_streams_of_their_own() -> None:
    """What cuBLAS works in belongs to the stream of the capture; parts beside each other must not share it."""
    made: list[Any] = []

    def stream(*_: Any) -> Any:
        made.append(mock.MagicMock())
        return made[-1]

    with (
        mock.patch("torch.cuda.Stream", stream),
        mock.patch("torch.cuda.graph_pool_handle", side_effect=["first pool", "second pool"]),
        mock.patch("torch.cuda.device"),
        mock.patch("torch.cuda.current_stream"),
        mock.patch("torch.cuda.stream") as entered,
        mock.patch("torch.cuda.CUDAGraph"),
        mock.patch("torch.cuda.graph") as graph,
    ):
        first, second = (CudaGraphs(lambda tensor: (2 * tensor,)) for _ in range(2))
        for graphs, length in ((first, 1), (second, 1), (first, 2), (first, 1)):
            graphs(torch.ones(length))
    one, other = made
    assert [call.args[1:] for call in graph.call_args_list] == [
        ("first pool", one),
        ("second pool", other),
        ("first pool", one),
    ]
    assert [call.args for call in entered.call_args_list] == [(one,), (other,), (one,)]  # of the calls before
