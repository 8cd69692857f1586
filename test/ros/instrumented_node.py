"""The node `ovseg` with its real segmenter, made to report, to wait and to fail on demand.

Every `start` prints a line, and so does the end of the segmenter's life. A picture whose first pixel is in `FAILURES`
raises; one whose first pixel is `ENDLESS` never ends. A preset whose name begins with "slow" never ends loading, and
"slow_import" does so in an import that prints and swallows every exception, as the C code of some libraries does.
Encoding a vocabulary with a name that starts with "slow" waits for the file `gate` in the working folder.
"""

import importlib
import sys
import time
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from ovseg_ros.core.build import build_segmenter
from ovseg_ros.core.engine.options import EngineOptions
from ovseg_ros.core.segmenter import PanopticSegmenter
from ovseg_ros.ros.node.node_process import run_node
from ovseg_ros.ros.node.segment_node import SegmentNode

FAILURES: dict[tuple[int, ...], Exception] = {
    (255, 0, 255): RuntimeError("injected model fault"),
    (255, 255, 0): MemoryError("injected host memory fault"),
    (0, 255, 255): torch.OutOfMemoryError("injected device memory fault"),
}
ENDLESS = (0, 255, 0)
SWALLOWING = """
import time, traceback
while True:
    try:
        time.sleep(60)
    except BaseException:
        traceback.print_exc()
"""


def make_segmenter(preset: str, device: str, options: EngineOptions, tell: Callable[[str], None]) -> PanopticSegmenter:
    if Path(preset).name.startswith("slow"):
        print("loading slowly", flush=True)
        if Path(preset).name == "slow_import":
            Path("swallowing.py").write_text(SWALLOWING)
            sys.path.insert(0, str(Path.cwd()))
            importlib.import_module("swallowing")
        wait_forever()
    segmenter = build_segmenter(preset, device, options, tell)
    weakref.finalize(segmenter, print, "segmenter freed", flush=True)
    start, prepare = segmenter.start, segmenter.prepare

    def start_or_fail(images: Any, prompt: Any, merge: Any = None) -> Any:
        print("segmenting" if len(images) == 1 else f"segmenting {len(images)} at once", flush=True)
        for image in images:
            fail_on_demand(image)
        return start(images, prompt, merge)

    def prepare_after_gate(vocabulary: Any) -> Any:
        slow = [category.name for category in vocabulary.categories if category.name.startswith("slow")]
        if slow:
            print(f"encoding {slow[0]}", flush=True)
            while not Path("gate").exists():
                time.sleep(0.01)
        return prepare(vocabulary)

    segmenter.start, segmenter.prepare = start_or_fail, prepare_after_gate  # type: ignore[method-assign]
    return segmenter


def fail_on_demand(image: Any) -> None:
    pixel = tuple(image[0, 0].tolist())
    if pixel in FAILURES:
        raise FAILURES[pixel]
    if pixel == ENDLESS:
        print("segmenting without end", flush=True)
        wait_forever()


def wait_forever() -> None:
    while True:
        time.sleep(0.05)


if __name__ == "__main__":
    run_node(lambda: SegmentNode(make_segmenter), "ovseg")
