"""The node `ovseg` with its real segmenter, made to report, to wait and to fail on demand.

Every `segment` prints a line. A picture whose first pixel is in `FAILURES` raises. Encoding a vocabulary with a name
that starts with "slow" waits for the file `gate` in the working folder.
"""

import time
from pathlib import Path
from typing import Any

import torch

from ovseg_ros.core.build import build_segmenter
from ovseg_ros.core.segmenter import PanopticSegmenter
from ovseg_ros.ros.node_process import run_node
from ovseg_ros.ros.segment_node import SegmentNode

FAILURES: dict[tuple[int, ...], Exception] = {
    (255, 0, 255): RuntimeError("injected model fault"),
    (255, 255, 0): MemoryError("injected host memory fault"),
    (0, 255, 255): torch.OutOfMemoryError("injected device memory fault"),
}


def make_segmenter(preset: str, device: str) -> PanopticSegmenter:
    segmenter = build_segmenter(preset, device)
    segment, encode = segmenter.segment, segmenter.encode_vocabulary

    def segment_or_fail(image: Any, text: Any) -> Any:
        print("segmenting", flush=True)
        failure = FAILURES.get(tuple(image[0, 0].tolist()))
        if failure:
            raise failure
        return segment(image, text)

    def encode_after_gate(vocabulary: Any) -> Any:
        slow = [category.name for category in vocabulary.categories if category.name.startswith("slow")]
        if slow:
            print(f"encoding {slow[0]}", flush=True)
            while not Path("gate").exists():
                time.sleep(0.01)
        return encode(vocabulary)

    segmenter.segment, segmenter.encode_vocabulary = segment_or_fail, encode_after_gate  # type: ignore[method-assign]
    return segmenter


if __name__ == "__main__":
    run_node(lambda: SegmentNode(make_segmenter), "ovseg")
