"""Identity over time: which segment of this frame is which object of the frames before.

Masks decide where they overlap; appearance and place decide where they do not: after a short occlusion, a fast move or
a pause between frames. Times are the frames' stamps, so the rate of the frames does not matter, and words do not
either, so a change of the vocabulary leaves identities alone.
"""

import math
from dataclasses import dataclass, replace

import numpy as np
from scipy.optimize import linear_sum_assignment

from ovseg_ros.core.types import PanopticResult, Segment

_OVERLAP_PIXELS = 40_000
"""Masks are compared on about this many pixels at most."""

_IMPOSSIBLE = 0.0
"""Score of a pair that cannot be; it neither helps nor hurts an assignment. Possible pairs score higher."""


@dataclass(frozen=True, slots=True)
class TrackingConfig:
    """When two segments are one object.

    Attributes:
        max_age: an object that was not seen for longer is forgotten, seconds.
        min_overlap: masks with at least this IoU may be the same object, whatever they look like, ...
        min_similarity: ... others have to look alike, cosine of the appearances, ...
        max_speed: ... and be no further apart than this speed explains, image diagonals per second, ...
        slack: ... plus this, diagonals.
        max_growth: ... and differ in area by no more than this factor.
        memory: seconds in which a remembered appearance gives way to a new one (time constant).
    """

    max_age: float = 2.0
    min_overlap: float = 0.3
    min_similarity: float = 0.7
    max_speed: float = 0.3
    slack: float = 0.04
    max_growth: float = 3.0
    memory: float = 0.5


@dataclass(slots=True)
class _Track:
    """What is known of an object. Places are in units of the image: (x / width, y / height)."""

    track_id: int
    place: np.ndarray
    velocity: np.ndarray
    area: float
    appearance: np.ndarray | None
    seen: float


class Tracker:
    """Follows the things of one camera. Not for two threads at once."""

    def __init__(self, config: TrackingConfig | None = None) -> None:
        self._config = config or TrackingConfig()
        self._tracks: list[_Track] = []
        self._next_id = 1
        self._stamp = float("-inf")
        self._ids = np.zeros((1, 1), np.intp)  # the thinned segment image before...
        self._track_of_id: dict[int, int] = {}  # ... and the place in `_tracks` of its segments

    def reset(self) -> None:
        """Forgets all objects. Their numbers are not given again."""
        self._tracks, self._track_of_id = [], {}
        self._stamp = float("-inf")

    def update(self, result: PanopticResult, stamp: float, appearance: np.ndarray | None = None) -> PanopticResult:
        """The same result with a `track_id` for every thing.

        Args:
            result: of the next frame. Stuff has no identity: its track_id is 0.
            stamp: when the frame was taken, seconds. One before the last frame's means that time was set back, as when
                a recording starts again: everything is forgotten. Equal stamps are one frame, seen under other words.
            appearance: (N, C) rows of unit length for `result.segments`; None compares no appearance.

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
        things = [index for index, segment in enumerate(result.segments) if segment.is_thing]
        segments = [result.segments[index] for index in things]
        looks = None if appearance is None else np.asarray(appearance)[things]
        places = _places(result.segment_ids, segments)
        areas = np.array([segment.area for segment in segments]) / result.segment_ids.size
        fresh = [t for t, track in enumerate(self._tracks) if stamp - track.seen <= self._config.max_age]
        ids = _thinned(result.segment_ids)
        scores = self._scores(ids, segments, places, areas, looks, stamp)[fresh]
        rows, columns = linear_sum_assignment(scores, maximize=True)
        found = {int(c): fresh[r] for r, c in zip(rows, columns, strict=True) if scores[r, c] > _IMPOSSIBLE}

        track_of_segment = []
        for index, segment in enumerate(segments):
            look = None if looks is None else looks[index]
            if index in found:
                self._see(self._tracks[found[index]], places[index], areas[index], look, stamp)
                track_of_segment.append(found[index])
            else:
                track_of_segment.append(len(self._tracks))
                self._tracks.append(_Track(self._next_id, places[index], np.zeros(2), areas[index], look, stamp))
                self._next_id += 1
            track_id = self._tracks[track_of_segment[-1]].track_id
            segments[index] = replace(segment, track_id=track_id)
        self._remember(ids, segments, track_of_segment)
        tracked = dict(zip(things, segments, strict=True))
        return replace(result, segments=tuple(tracked.get(i, s) for i, s in enumerate(result.segments)))

    def _scores(
        self,
        ids: np.ndarray,
        segments: list[Segment],
        places: np.ndarray,
        areas: np.ndarray,
        looks: np.ndarray | None,
        stamp: float,
    ) -> np.ndarray:
        """How well each track (T,) and each segment (N,) go together: (T, N), `_IMPOSSIBLE` where they cannot."""
        config, shape = self._config, (len(self._tracks), len(segments))
        if 0 in shape:
            return np.zeros(shape)
        overlap = self._overlaps(ids, segments)
        age = stamp - np.array([track.seen for track in self._tracks])
        velocity = np.stack([track.velocity for track in self._tracks])
        # A velocity is worth less the older it is.
        ahead = np.stack([track.place for track in self._tracks]) + velocity * np.minimum(age, 0.5)[:, None]
        distance = np.linalg.norm(ahead[:, None] - places[None], axis=2) / np.sqrt(2)  # (T, N), diagonals
        reach = (config.slack + config.max_speed * age)[:, None]
        growth = np.abs(np.log(np.array([track.area for track in self._tracks])[:, None] / areas[None]))
        similarity = self._similarities(looks, shape)
        is_possible = (overlap >= config.min_overlap) | (
            (distance <= reach) & (growth <= np.log(config.max_growth)) & (similarity >= config.min_similarity)
        )
        return np.where(is_possible, 2 * overlap + similarity + 0.5 * (1 - distance / (reach + distance)), _IMPOSSIBLE)

    def _overlaps(self, ids: np.ndarray, segments: list[Segment]) -> np.ndarray:
        """IoU (T, N) of the masks of the frame before, where a track was seen in it, with those of this one."""
        before = self._ids
        if before.shape != ids.shape:
            rows, columns = (np.arange(now) * then // now for then, now in zip(before.shape, ids.shape, strict=True))
            before = before[rows[:, None], columns]
        old, new = int(before.max(initial=0)) + 1, int(ids.max(initial=0)) + 1
        joint = np.bincount((before * new + ids).ravel(), minlength=old * new).reshape(old, new)
        union = joint.sum(axis=1)[:, None] + joint.sum(axis=0)[None] - joint
        iou = joint / np.maximum(union, 1)
        overlap = np.zeros((len(self._tracks), len(segments)))
        own = np.array([segment.id for segment in segments])
        for segment_id, track in self._track_of_id.items():
            if segment_id < old:  # a small one may lie between the compared pixels
                overlap[track] = iou[segment_id, np.minimum(own, new - 1)] * (own < new)
        return overlap

    def _similarities(self, looks: np.ndarray | None, shape: tuple[int, int]) -> np.ndarray:
        """Cosines (T, N), negative ones as 0; 0 where a track or this frame has no appearance."""
        similarity = np.zeros(shape)
        if looks is not None:
            known = {
                row: track.appearance
                for row, track in enumerate(self._tracks)
                if track.appearance is not None and len(track.appearance) == looks.shape[1]
            }
            if known:
                similarity[list(known)] = np.maximum(np.stack(list(known.values())) @ looks.T, 0.0)
        return similarity

    def _see(self, track: _Track, place: np.ndarray, area: float, look: np.ndarray | None, stamp: float) -> None:
        """Updates a track with what was seen of it. How much old values count depends on time, not on frames."""
        passed = stamp - track.seen
        if passed > 0:
            share = 1 - math.exp(-passed / self._config.memory)
            track.velocity = track.velocity + share * ((place - track.place) / passed - track.velocity)
            if look is not None and track.appearance is not None and len(look) == len(track.appearance):
                mixed = track.appearance + share * (look - track.appearance)
                look = mixed / max(math.sqrt(mixed @ mixed), 1e-12)
        track.place, track.area, track.seen = place, area, stamp
        track.appearance = look if look is not None else track.appearance

    def _remember(self, ids: np.ndarray, segments: list[Segment], track_of_segment: list[int]) -> None:
        """Keeps the frame for the next one and drops tracks that are too old to come back."""
        kept = [t for t, track in enumerate(self._tracks) if self._stamp - track.seen <= self._config.max_age]
        place = {track: index for index, track in enumerate(kept)}
        self._tracks = [self._tracks[t] for t in kept]
        self._ids = ids
        self._track_of_id = {s.id: place[t] for s, t in zip(segments, track_of_segment, strict=True)}


def _thinned(ids: np.ndarray) -> np.ndarray:
    """Every few pixels of a segment image, (h, w) intp."""
    stride = max(1, round(np.sqrt(ids.size / _OVERLAP_PIXELS)))
    return ids[::stride, ::stride].astype(np.intp)


def _places(ids: np.ndarray, segments: list[Segment]) -> np.ndarray:
    """Centres of the segments' boxes (N, 2), in units of the image."""
    height, width = ids.shape
    boxes = np.array([segment.box for segment in segments], dtype=np.float64).reshape(-1, 4)
    return (boxes[:, :2] + boxes[:, 2:] / 2) / [width, height]
