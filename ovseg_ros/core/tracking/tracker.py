"""Identity over time: which segment of this frame is which object of the frames before.

Masks decide where they overlap; appearance and place decide where they do not: after a short occlusion, a fast move or
a pause between frames. Times are the frames' stamps, so the rate of the frames does not matter; names do not either,
but a track may decide the name (names.py).

Words may take part in making masks and their embeddings, though. So what was last seen under other words is compared by
its colours, and only a mask of about the same extent is the same object: a group has a number of its own, and its
members get theirs back when they are asked for one by one again.
"""

from collections.abc import Sequence
from dataclasses import replace

import cv2
import numpy as np
from scipy.optimize import linear_sum_assignment

from ovseg_ros.core.tracking.appearance import color_similarity
from ovseg_ros.core.tracking.names import NameVotes
from ovseg_ros.core.tracking.subsampling import subsampled_ids
from ovseg_ros.core.types import PanopticResult, Segment

_PIXELS = 40_000  # masks are compared on about so many at most
_MAX_AGE = 2.0  # seconds; an object that was not seen for longer is forgotten
_MIN_OVERLAP = 0.3  # masks with at least this IoU may be the same object, whatever they look like; ...
_MIN_SIMILARITY = 0.7  # ... others have to look alike, cosine of the appearances, ...
_MAX_SPEED = 0.3  # ... and be no further apart than this speed explains, image diagonals per second, ...
_SLACK = 0.04  # ... plus this, diagonals, ...
_MAX_GROWTH = 3.0  # ... and differ in area by no more than this factor
# The same between what was seen under different words, one of which may mean a group of what the other means.
_MIN_OVERLAP_OF_WORDS = 0.6
_MAX_GROWTH_OF_WORDS = 1.5
_MEMORY = 0.5  # seconds in which a remembered appearance gives way to a new one (time constant)

# Score of a pair that cannot be; it neither helps nor hurts an assignment. Possible pairs score higher.
_IMPOSSIBLE = 0.0


class Tracker:
    """Follows the things of one camera. Not for two threads at once."""

    def __init__(self) -> None:
        self._next_id = 1
        self.reset()

    def reset(self) -> None:
        """Forgets all objects. Their numbers are not given again."""
        self._objects = _objects(0, 0)
        self._names = NameVotes()
        # The newest frame's segment image, subsampled, and the least number above its ids.
        self._ids, self._count = np.zeros((1, 1), np.uint8), 1
        self._stamp = float("-inf")

    def update(
        self, result: PanopticResult, stamp: float, appearance: np.ndarray | None = None, *, name_votes: int = 0
    ) -> PanopticResult:
        """The same result with a `track_id` for every thing.

        Args:
            result: of the next frame. Stuff has no identity: its track_id is 0.
            stamp: when the frame was taken, seconds. One before the last frame's means that time was set back, as when
                a recording starts again: everything is forgotten. Equal stamps are one frame, seen under other words.
            appearance: (N, C) rows of unit length for `result.segments`; None compares no appearance.
            name_votes: how many of an object's last frames decide its name, by `NameVotes`; 0 = each frame its own.

        Returns:
            Track ids are 1 or more, and none is ever given to a second object.

        Raises:
            ValueError: `appearance` has another number of rows than there are segments.
        """
        if appearance is not None and len(appearance) != len(result.segments):
            raise ValueError(f"appearance has {len(appearance)} rows for {len(result.segments)} segments")
        if stamp < self._stamp:
            self.reset()
        self._stamp = stamp
        known = self._objects[stamp - self._objects["seen"] <= _MAX_AGE]
        things = [index for index, segment in enumerate(result.segments) if segment.is_thing]
        looks = None if appearance is None else appearance[things]
        if looks is not None and looks.shape[1] != known["appearance"].shape[1]:
            known = _without_appearance(known, looks.shape[1])  # another model's: they cannot be compared
        now = self._sighted([result.segments[index] for index in things], result.segment_ids.shape, looks, known.dtype)
        now["version"] = result.vocabulary_version
        count = 1 + max((segment.id for segment in result.segments), default=0)
        ids = subsampled_ids(result.segment_ids, count, _PIXELS)

        scores = self._scores(known, now, self._overlaps(known, now, ids, count))
        rows, columns = linear_sum_assignment(scores, maximize=True)
        is_pair = scores[rows, columns] > _IMPOSSIBLE
        rows, columns = rows[is_pair], columns[is_pair]
        known["segment_id"] = 0
        known[rows] = self._seen_again(known[rows], now[columns])
        now["track_id"][columns] = known["track_id"][rows]
        is_new = now["track_id"] == 0
        first, self._next_id = self._next_id, self._next_id + int(is_new.sum())
        now["track_id"][is_new] = np.arange(first, self._next_id)
        self._objects, self._ids, self._count = np.concatenate([known, now[is_new]]), ids, count

        segments = list(result.segments)
        for index, track_id in zip(things, now["track_id"].tolist(), strict=True):
            segments[index] = replace(segments[index], track_id=track_id)
        tracked = replace(result, segments=tuple(segments))
        return self._names.decide(tracked, name_votes, self._objects["track_id"].tolist())

    def _scores(self, known: np.ndarray, now: np.ndarray, overlap: np.ndarray) -> np.ndarray:
        """How well each known object (T,) and each one in sight (N,) go together: (T, N), or `_IMPOSSIBLE`."""
        if not len(known) or not len(now):
            return np.zeros(overlap.shape)
        age = self._stamp - known["seen"]
        # A velocity is worth less the older it is.
        ahead = known["place"] + known["velocity"] * np.minimum(age, 0.5)[:, None]
        away = ahead[:, None] - now["place"][None]  # (T, N, 2)
        distance = np.hypot(away[..., 0], away[..., 1]) / np.sqrt(2)  # diagonals
        reach = (_SLACK + _MAX_SPEED * age)[:, None]
        growth = np.abs(np.log(known["area"][:, None] / now["area"][None]))
        similarity = np.maximum(known["appearance"] @ now["appearance"].T, 0.0)
        other_words = known["version"] != now["version"][0]
        similarity[other_words] = color_similarity(known["appearance"][other_words], now["appearance"])
        least_overlap = np.where(other_words, _MIN_OVERLAP_OF_WORDS, _MIN_OVERLAP)[:, None]
        most_growth = np.where(other_words, _MAX_GROWTH_OF_WORDS, _MAX_GROWTH)[:, None]
        is_possible = (overlap >= least_overlap) | (
            (distance <= reach) & (growth <= np.log(most_growth)) & (similarity >= _MIN_SIMILARITY)
        )
        return np.where(is_possible, 2 * overlap + similarity + 0.5 * (1 - distance / (reach + distance)), _IMPOSSIBLE)

    def _overlaps(self, known: np.ndarray, now: np.ndarray, ids: np.ndarray, count: int) -> np.ndarray:
        """IoU (T, N) of the masks of the frame before with those of this one; 0 for who was not in it."""
        before: np.ndarray = self._ids
        if before.shape != ids.shape:
            before = cv2.resize(before, ids.shape[::-1], interpolation=cv2.INTER_NEAREST)
        kind = max(before.dtype, ids.dtype)
        pair = [before.astype(kind, copy=False), ids.astype(kind, copy=False)]
        joint = cv2.calcHist(pair, [0, 1], None, [self._count, count], [0, self._count, 0, count])
        union = joint.sum(axis=1)[:, None] + joint.sum(axis=0)[None] - joint
        iou = joint / np.maximum(union, 1)
        iou[0] = 0.0  # void, and whoever was not there
        return iou[known["segment_id"][:, None], now["segment_id"]]

    def _seen_again(self, known: np.ndarray, now: np.ndarray) -> np.ndarray:
        """Known objects (P,) with what was seen of them now (P,); what old values count depends on time, not frames."""
        passed = (self._stamp - known["seen"])[:, None]
        share = 1 - np.exp(-passed / _MEMORY)  # 0 under an equal stamp
        moved = (now["place"] - known["place"]) / np.maximum(passed, 1e-9)
        old = known["appearance"]
        is_comparable = old.any(axis=1) & (known["version"] == now["version"])
        mixed = old + np.where(is_comparable[:, None], share, 1.0) * (now["appearance"] - old)
        now["appearance"] = mixed / np.maximum(np.sqrt((mixed * mixed).sum(axis=1, keepdims=True)), 1e-12)
        now["velocity"] = known["velocity"] + share * (moved - known["velocity"])
        now["track_id"] = known["track_id"]
        return now

    def _sighted(
        self, segments: Sequence[Segment], shape: tuple[int, ...], looks: np.ndarray | None, kind: np.dtype
    ) -> np.ndarray:
        """The segments of an image of this shape, as objects without a number and a velocity."""
        height, width = shape
        boxes = np.array([segment.box for segment in segments], dtype=np.float64).reshape(-1, 4)
        objects = np.zeros(len(segments), kind)
        objects["segment_id"] = [segment.id for segment in segments]
        objects["place"] = (boxes[:, :2] + boxes[:, 2:] / 2) / [width, height]
        objects["area"] = [segment.area / (height * width) for segment in segments]
        objects["appearance"] = 0.0 if looks is None else looks
        objects["seen"] = self._stamp
        return objects


def _objects(count: int, channels: int) -> np.ndarray:
    """What is known of T objects: (T,), all zero. Places are in units of the image: (x / width, y / height)."""
    fields = [
        ("track_id", np.intp),  # 0 while not given
        ("segment_id", np.intp),  # in the newest frame; 0 for those that are not in it
        ("place", np.float64, 2),
        ("velocity", np.float64, 2),  # per second
        ("area", np.float64),  # of the image's
        ("appearance", np.float32, (channels,)),  # of unit length, or zeros where it is not known
        ("seen", np.float64),  # when last, seconds
        ("version", np.intp),  # of the vocabulary then
    ]
    return np.zeros(count, np.dtype(fields))


def _without_appearance(objects: np.ndarray, channels: int) -> np.ndarray:
    """The same objects with room for other appearances."""
    fresh = _objects(len(objects), channels)
    for name in ("track_id", "segment_id", "place", "velocity", "area", "seen", "version"):
        fresh[name] = objects[name]
    return fresh
