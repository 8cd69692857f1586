"""The only panoptic merge: scored masks in, at most one segment for every pixel out."""

from ovseg_ros.core.merge.config import MergeConfig
from ovseg_ros.core.merge.panoptic import MAX_QUERIES, Candidates, merge_panoptic, start_merge

__all__ = ["MAX_QUERIES", "Candidates", "MergeConfig", "merge_panoptic", "start_merge"]
