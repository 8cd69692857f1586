"""Training views of the tabletop: rendered once, in parallel, to resumable shards on disk, then held in memory.

Views show one settled scene from several random poses, because settling costs more than rendering.
"""

import io
import json
import multiprocessing
import os
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from tqdm import tqdm

from ovseg_ros.core.errors import DatasetError
from ovseg_ros.offline.data.files import write_bytes
from ovseg_ros.sim.scene import SPLITS, random_camera
from ovseg_ros.sim.simulator import TabletopSimulator

Job = TypeVar("Job")

SCENES_PER_SHARD = 20
_WIDTH, _HEIGHT = 320, 240
_VIEW_STREAM = 1000
"""First number of the random stream that draws the views' cameras, apart from the scenes' own streams."""


@dataclass(frozen=True, slots=True)
class TabletopViews:
    """Views held in memory.

    Attributes:
        images: uint8 RGB (N, H, W, 3).
        segment_ids: uint8 (N, H, W), 0 = void.
        labels: for each view, the category name of segment 1, 2, ...
        textures: for each view, the texture kind of each stuff category in its scene.
    """

    images: np.ndarray
    segment_ids: np.ndarray
    labels: list[list[str]]
    textures: list[dict[str, str]]

    def __len__(self) -> int:
        return len(self.images)


def load_or_render(folder: Path, split: str, *, scenes: int, views: int, wide: int = 0) -> TabletopViews:
    """The first `scenes` scenes of a split and `wide` of SPLIT_wide, `views` poses each; shards that exist already are
    read, not rendered.

    Args:
        folder: where the shards live, of 20 scenes each; one folder serves all splits.

    Raises:
        DatasetError: if a shard on disk cannot be read (it is named; delete it to render it again).
    """
    total = (scenes + wide) * views
    images = np.empty((total, _HEIGHT, _WIDTH, 3), dtype=np.uint8)  # once, as they are most of the memory
    segment_ids = np.empty((total, _HEIGHT, _WIDTH), dtype=np.uint8)
    labels: list[list[str]] = []
    textures: list[dict[str, str]] = []
    for name, count in {split: scenes, f"{split}_wide": wide}.items():
        shards = folder / f"{name}-{_WIDTH}x{_HEIGHT}-{views}views"
        starts = range(0, count, SCENES_PER_SHARD)
        if missing := [(shards, name, start, views) for start in starts if not _shard_path(shards, start).exists()]:
            shards.mkdir(parents=True, exist_ok=True)
            with tqdm(total=len(missing), desc=f"render {name}", unit="shard") as bar:
                render_all(_render_shard, missing, 0, bar)
        for start in starts:
            shard, begin = _read_shard(_shard_path(shards, start)), len(labels)
            kept = min(len(shard), (count - start) * views)  # the last shard may hold more
            images[begin : begin + kept] = shard.images[:kept]
            segment_ids[begin : begin + kept] = shard.segment_ids[:kept]
            labels += shard.labels[:kept]
            textures += shard.textures[:kept]
    return TabletopViews(images, segment_ids, labels, textures)


def render_all(render: Callable[[Job], None], jobs: Sequence[Job], workers: int, bar: tqdm) -> None:
    """Do all jobs, in so many processes (0 = one for each core), or in this one where one is enough."""
    workers = min(workers or os.cpu_count() or 1, len(jobs))
    if workers <= 1:
        for job in jobs:
            render(job)
            bar.update()
        return
    quiet = (signal.signal, (signal.SIGINT, signal.SIG_IGN))  # Ctrl-C ends them from here, without their tracebacks
    with multiprocessing.get_context("spawn").Pool(workers, *quiet) as pool:  # a GL context does not survive a fork
        for _ in pool.imap_unordered(render, jobs):
            bar.update()


def _shard_path(folder: Path, start: int) -> Path:
    return folder / f"{start:06d}.npz"


def _render_shard(job: tuple[Path, str, int, int]) -> None:
    folder, split, start, views = job
    images, segment_ids, labels, textures = [], [], [], []
    for seed in range(start, start + SCENES_PER_SHARD):
        rng = np.random.default_rng([_VIEW_STREAM, seed])
        with TabletopSimulator(seed, split=split, width=_WIDTH, height=_HEIGHT) as simulator:
            poses = [simulator.scene.camera] + [random_camera(rng, SPLITS[split].make) for _ in range(views - 1)]
            for pose in poses:
                frame = simulator.render_from(pose, with_depth=False)
                images.append(frame.image)
                segment_ids.append(frame.segment_ids.astype(np.uint8))
                labels.append([segment.label for segment in frame.segments])
                textures.append(simulator.scene.textures)
    content = io.BytesIO()
    np.savez(
        content,
        images=np.stack(images),
        segment_ids=np.stack(segment_ids),
        facts=np.frombuffer(json.dumps({"labels": labels, "textures": textures}).encode(), dtype=np.uint8),
    )
    write_bytes(_shard_path(folder, start), content.getvalue())


def _read_shard(path: Path) -> TabletopViews:
    try:
        with np.load(path) as shard:
            facts = json.loads(shard["facts"].tobytes())
            return TabletopViews(shard["images"], shard["segment_ids"], facts["labels"], facts["textures"])
    except (OSError, ValueError, KeyError) as error:
        raise DatasetError(f"cannot read the shard {path} ({error}); delete it and it is rendered again") from error
