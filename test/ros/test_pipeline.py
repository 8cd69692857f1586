"""What the worker thread does with the frames of several cameras, and the publishing thread with names."""

from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
from builtin_interfaces.msg import Time
from std_msgs.msg import Header

from ovseg_ros.core.merge import MergeConfig
from ovseg_ros.core.outputs import OutputOptions, SegmentedFrame
from ovseg_ros.core.region import Region
from ovseg_ros.core.tracking.tracker import Tracker
from ovseg_ros.core.types import PanopticResult, Segment
from ovseg_ros.core.vocabulary import CategorySpec, Vocabulary
from ovseg_ros.ros.node.outputs import OUTPUTS
from ovseg_ros.ros.node.parameters import Settings
from ovseg_ros.ros.node.pipeline import alike
from ovseg_ros.ros.node.publishing import PreparedFrame, PublishingThread
from ovseg_ros.ros.node.statistics import CameraStatistics


def prepared(side: int, threshold: float) -> PreparedFrame:
    image = np.zeros((side, side, 3), np.uint8)
    settings = Settings(MergeConfig(object_threshold=threshold), Region(0, 0, 0, 0), OutputOptions(), False, 0)
    return PreparedFrame(cast(Any, None), frozenset(), settings, image, image)


def test_frames_go_together_only_with_their_own_thresholds_and_size() -> None:
    first, other, second, larger = prepared(4, 0.5), prepared(4, 0.9), prepared(4, 0.5), prepared(8, 0.5)
    assert alike([first, other, second, larger]) == [[first, second], [other], [larger]]


class Taken:
    """A camera whose outputs keep what is to be published."""

    def __init__(self) -> None:
        self.tracker, self.statistics = Tracker(), CameraStatistics()
        self.outputs, self.published = self, None
        self.frames: list[SegmentedFrame] = []

    def publish(self, frame: SegmentedFrame, names: frozenset[str]) -> None:
        self.frames.append(frame)


VOCABULARY = Vocabulary.build([CategorySpec("cup"), CategorySpec("egg")])


def publish(camera: Taken, category: int, wanted: str, votes: int, *, tracking: bool = True) -> SegmentedFrame:
    """A picture that is one thing, of one of the categories, on its way through the publishing thread."""
    name = VOCABULARY.categories[category].name
    result = PanopticResult(
        np.ones((40, 60), np.uint16),
        np.full((40, 60), category, np.uint16),
        np.full((40, 60), 255, np.uint8),
        (Segment(1, category, name, 0.9 - 0.5 * category, True, 2400, (0, 0, 60, 40)),),
        VOCABULARY.version,
    )
    image = np.full((40, 60, 3), 128, np.uint8)
    header = Header(stamp=Time(sec=len(camera.frames)))
    frame = SimpleNamespace(camera=camera, header=header, received=0.0)
    settings = Settings(MergeConfig(), Region(), OutputOptions(), tracking, votes)
    one = PreparedFrame(cast(Any, frame), frozenset({wanted}), settings, image, image)
    node = SimpleNamespace(get_clock=lambda: SimpleNamespace(now=lambda: SimpleNamespace(nanoseconds=0)))
    losses = SimpleNamespace(only=lambda frame: nullcontext())
    thread = PublishingThread(cast(Any, node), cast(Any, losses), cast(Any, None))
    prompt, pending = SimpleNamespace(vocabulary=VOCABULARY), SimpleNamespace(results=lambda: [result])
    thread.hand_over([one], cast(Any, pending), cast(Any, prompt))
    thread.wait()
    thread.close()
    return camera.frames[-1]


def test_all_outputs_have_the_name_that_the_track_decides_whoever_listens() -> None:
    """Also where none of them shows an identity."""
    camera = Taken()
    first = publish(camera, 0, "label_image", 3)
    second = publish(camera, 1, "overlay_image", 3)
    segments, labels = (OUTPUTS[name][1](second) for name in ("segments", "label_image"))
    assert [(segment.label, segment.category_id) for segment in segments.segments] == [("cup", 0)]
    assert set(labels.data) == {0}
    np.testing.assert_array_equal(second.overlay, first.overlay)


def test_names_are_the_frames_where_nothing_is_tracked_or_no_votes_are_asked_for() -> None:
    for votes, tracking in ((0, True), (3, False)):
        camera = Taken()
        names = [publish(camera, category, "segments", votes, tracking=tracking) for category in (0, 1)]
        assert [frame.result.segments[0].label for frame in names] == ["cup", "egg"]
