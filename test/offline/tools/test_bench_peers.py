"""The merge beside a peer's."""

from ovseg_ros.offline.tools.bench_peers import merge_against_transformers


def test_transformers_finds_the_same_segments() -> None:
    for times in merge_against_transformers(size=(240, 320), kept=(4, 12), repeats=1):
        assert times.segments == times.their_segments > 3
        assert times.equal_percent > 99.5
        assert times.ours_ms > 0
        assert times.theirs_ms > 0
