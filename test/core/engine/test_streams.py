"""Two functions side by side: on a CPU one after the other, on a GPU on two streams that meet again."""

from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

import pytest
import torch

from ovseg_ros.core.engine.streams import SideBySide

CUDA = torch.device("cuda")


class Streams:
    """Stand-ins for streams, and what was asked of them."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.current = "current"
        self.made = 0

    def stream(self, name: str) -> mock.Mock:
        made = mock.Mock()
        made.name = name
        made.wait_stream = lambda other: self.events.append(f"{name} waits for {other.name}")
        return made

    def make(self, *_: object) -> mock.Mock:
        self.made += 1
        return self.stream("side")

    @contextmanager
    def use(self, stream: mock.Mock) -> Iterator[None]:
        self.current = stream.name
        yield
        self.current = "current"

    def work(self, name: str) -> str:
        self.events.append(f"{name} on {self.current}")
        return name


@pytest.fixture
def streams(monkeypatch: pytest.MonkeyPatch) -> Streams:
    streams = Streams()
    monkeypatch.setattr(torch.cuda, "Stream", streams.make)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda *_: streams.stream("current"))
    monkeypatch.setattr(torch.cuda, "stream", streams.use)
    return streams


def test_on_a_gpu_the_first_has_a_stream_of_its_own(streams: Streams) -> None:
    both = SideBySide()
    for _ in range(2):
        assert both(CUDA, lambda: streams.work("look"), lambda: streams.work("masks")) == ("look", "masks")
        assert streams.events == [
            "side waits for current",
            "look on side",
            "masks on current",
            "current waits for side",
        ]
        streams.events.clear()
    assert streams.made == 1


def test_streams_meet_again_after_an_error(streams: Streams) -> None:
    def fail() -> None:
        raise ValueError("no masks")

    with pytest.raises(ValueError, match="no masks"):
        SideBySide()(CUDA, lambda: streams.work("look"), fail)
    assert streams.events[-1] == "current waits for side"


def test_elsewhere_there_are_no_streams(streams: Streams) -> None:
    assert SideBySide()(torch.device("cpu"), lambda: 1, lambda: 2) == (1, 2)
    assert streams.made == 0
