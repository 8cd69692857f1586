"""Names over time: a thing is called what its track was called most, of late, whatever the newest frame says.

A score weighs as much as it is sure: of a name, the scores of the frames that gave it are summed.
"""

from collections import deque
from collections.abc import Collection, Iterable
from dataclasses import replace

import numpy as np

from ovseg_ros.core.types import NO_CATEGORY, PanopticResult, Segment


class NameVotes:
    """The names that the tracks of one camera were given, under one version of the vocabulary."""

    def __init__(self) -> None:
        self._votes: dict[int, deque[Segment]] = {}  # by track id, the newest last
        self._version = -1

    def decide(self, result: PanopticResult, frames: int, known: Collection[int]) -> PanopticResult:
        """The same result with every track under the name for which its last frames voted.

        Segments, pixels and scores stay: two things that touch and get one name stay two, and a score is still that of
        the frame's own name. Stuff has no track and keeps its name.

        Args:
            result: of the next frame, with track ids. Under another version of the vocabulary than the last one's, all
                votes are void.
            frames: how many of the frames in which a track was seen have a vote, this one among them; 0 = nothing is
                changed and all votes are void. Of equal names the one that was given last wins.
            known: the track ids that are not forgotten.
        """
        if result.vocabulary_version != self._version or not frames:
            self._votes.clear()
        self._version = result.vocabulary_version
        if not frames:
            return result
        self._votes = {track: deque(self._votes.get(track, ()), maxlen=frames) for track in known}
        segments = []
        for segment in result.segments:
            if segment.track_id:
                votes = self._votes[segment.track_id]
                votes.append(segment)
                chosen = _most_voted(votes)
                if chosen.category_id != segment.category_id:
                    segment = replace(segment, category_id=chosen.category_id, label=chosen.label)
            segments.append(segment)
        if segments == list(result.segments):
            return result
        return replace(result, segments=tuple(segments), category_ids=_category_ids(result.segment_ids, segments))


def _most_voted(votes: Iterable[Segment]) -> Segment:
    """One of the observations that have the name with the largest sum of scores; votes are in the order of time."""
    sums: dict[int, float] = {}
    newest: dict[int, Segment] = {}
    for vote in reversed(list(votes)):
        sums[vote.category_id] = sums.get(vote.category_id, 0.0) + vote.score
        newest.setdefault(vote.category_id, vote)
    return newest[max(sums, key=sums.__getitem__)]  # the first of equals, which was given last


def _category_ids(segment_ids: np.ndarray, segments: Collection[Segment]) -> np.ndarray:
    """Category of every pixel, (H, W) uint16."""
    table = np.full(1 + max(segment.id for segment in segments), NO_CATEGORY, np.uint16)
    table[[segment.id for segment in segments]] = [segment.category_id for segment in segments]
    return table[segment_ids]
