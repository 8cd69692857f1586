"""The simulated tabletop as a data set in COCO panoptic format: `ovseg dataset tabletop`.

Layout of the folder:

    panoptic.json                       the index, in COCO's panoptic format; written last
    images/NNNNNN.png                   uint8 RGB
    panoptic/NNNNNN.png                 segment ids, R + 256 G + 65536 B, 0 = void
    depth/NNNNNN.png                    16 bits, millimetres along the optical axis, 0 = nothing within 65.535 m
    records/NNNNNN.json                 the image's entries of the index; written after its three PNGs

A record marks its image as done, so a run that was stopped goes on where it was. Image n shows the scene with seed
`seed + n` of the split; splits never share a scene (see `sim.scene`).
"""

import json
import multiprocessing
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from tqdm import tqdm

from ovseg_ros.core.errors import ConfigError, DatasetError
from ovseg_ros.core.vocabulary import Vocabulary
from ovseg_ros.offline.data.coco_panoptic import ids_to_rgb, rgb_to_ids, tight_box
from ovseg_ros.offline.data.files import write_image, write_json
from ovseg_ros.offline.data.images import load_image
from ovseg_ros.sim import categories
from ovseg_ros.sim.scene import SPLITS
from ovseg_ros.sim.simulator import Frame, GroundTruthSegment, TabletopSimulator

INDEX_NAME = "panoptic.json"
_MILLIMETRES = 1000.0
_DEEPEST = 65535
_PNG_FOLDERS = ("images", "panoptic", "depth")


@dataclass(frozen=True, slots=True)
class DatasetConfig:
    """What makes a data set; every image is a function of this and its number.

    Attributes:
        split: one of `sim.scene.SPLITS`.
        count: number of images.
        seed: seed of the first scene.
        width, height: resolution in pixels.
    """

    split: str
    count: int
    seed: int = 0
    width: int = 320
    height: int = 240

    def __post_init__(self) -> None:
        if self.split not in SPLITS:
            raise ConfigError(f"unknown split {self.split!r}; expected one of {', '.join(SPLITS)}")
        if self.count < 1 or self.seed < 0:
            raise ConfigError(
                f"expected a count of 1 or more and a seed of 0 or more, got {self.count} and {self.seed}"
            )
        if not (16 <= self.width <= 1920 and 16 <= self.height <= 1920):
            raise ConfigError(f"expected a width and height of 16 to 1920 pixels, got {self.width}x{self.height}")


def category_ids() -> dict[str, int]:
    """The id of every tabletop category in the files: 1 to 100, in the order of `TABLETOP_SPECS`."""
    return {spec.name: index for index, spec in enumerate(categories.TABLETOP_SPECS, start=1)}


def tabletop_vocabulary() -> Vocabulary:
    """The 100 words of the tabletop, one canonical name each."""
    return Vocabulary.build(categories.TABLETOP_SPECS)


def render_frames(config: DatasetConfig) -> Iterator[Frame]:
    """The frames of a data set, rendered in this thread instead of read from disk."""
    for number in range(config.count):
        yield _render(config, number)


def write_dataset(config: DatasetConfig, out: Path, *, workers: int = 0) -> None:
    """Write a data set, or finish one that was stopped; images that are done already are kept.

    Args:
        out: the data set's folder; made if need be.
        workers: rendering processes; 0 = one for each core.

    Raises:
        ConfigError: `out` holds a data set made with another split, seed or resolution.
    """
    facts = {"split": config.split, "seed": config.seed, "width": config.width, "height": config.height}
    facts_path = out / "records" / "config.json"
    if facts_path.exists():
        found = _read_json(facts_path)
        if found != facts:
            raise ConfigError(f"{out} was begun with {found}, not with {facts}; choose another --out")
    write_json(facts_path, facts)
    missing = [(config, number, out) for number in range(config.count) if not _record_path(out, number).exists()]
    workers = min(workers or os.cpu_count() or 1, len(missing))
    with tqdm(
        total=config.count, initial=config.count - len(missing), desc=f"tabletop {config.split}", unit="image"
    ) as bar:
        if workers <= 1:
            for job in missing:
                _write_image(job)
                bar.update()
        else:
            # A GL context does not survive a fork.
            with multiprocessing.get_context("spawn").Pool(workers) as pool:
                for _ in pool.imap_unordered(_write_image, missing):
                    bar.update()
    write_json(out / INDEX_NAME, _index_of(config, [_read_json(_record_path(out, n)) for n in range(config.count)]))


class TabletopDataset:
    """Reads a data set that `write_dataset` wrote, checking each file against the index.

    Args:
        folder: the data set's folder.

    Raises:
        DatasetError: the index is missing or malformed.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        path = folder / INDEX_NAME
        if not path.is_file():
            raise DatasetError(
                f"{path} is missing; finish writing the data set with the same command, or check the path"
            )
        index = _read_json(path)
        try:
            self._category_names = {int(entry["id"]): str(entry["name"]) for entry in index["categories"]}
            self._is_thing = {int(entry["id"]): bool(entry["isthing"]) for entry in index["categories"]}
            self._info = dict(index["info"])
            annotations = {entry["image_id"]: entry for entry in index["annotations"]}
            self._entries = [(image, annotations[image["id"]]) for image in index["images"]]
        except (KeyError, TypeError, ValueError) as error:
            raise DatasetError(
                f"{path} is malformed: {type(error).__name__} {error}; write the data set again"
            ) from error

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def info(self) -> dict[str, Any]:
        """Split, seed and resolution, as written."""
        return self._info

    def frames(self) -> Iterator[Frame]:
        """All frames in order; see `frame`."""
        for number in range(len(self)):
            yield self.frame(number)

    def frame(self, number: int) -> Frame:
        """One frame, equal to what the simulator rendered except that depth is rounded to millimetres.

        Raises:
            DatasetError: a file is missing, has another size, or disagrees with the index.
        """
        image_entry, annotation = self._entries[number]
        name = image_entry["file_name"]
        size = (image_entry["height"], image_entry["width"])
        image = load_image(self._folder / "images" / name)
        ids = rgb_to_ids(load_image(self._folder / "panoptic" / annotation["file_name"]))
        depth = cv2.imread(str(self._folder / "depth" / image_entry["depth_file_name"]), cv2.IMREAD_UNCHANGED)
        if depth is None or depth.dtype != np.uint16:
            raise DatasetError(f"the depth of {name} in {self._folder} is missing or not a 16-bit PNG")
        for what, array in (("image", image), ("panoptic map", ids), ("depth", depth)):
            if array.shape[:2] != size:
                raise DatasetError(f"the {what} of {name} is {array.shape[:2]}, but the index says {size}")
        return Frame(
            image=image,
            depth=depth.astype(np.float32) / _MILLIMETRES,
            segment_ids=ids.astype(np.uint16),
            segments=self._checked_segments(name, ids, annotation["segments_info"]),
            camera_matrix=np.array(image_entry["camera_matrix"], dtype=np.float64),
        )

    def _checked_segments(
        self, name: str, ids: np.ndarray, infos: list[dict[str, Any]]
    ) -> tuple[GroundTruthSegment, ...]:
        present, areas = np.unique(ids[ids != 0], return_counts=True)
        expected = {info["id"]: info["area"] for info in infos}
        found = dict(zip(present.tolist(), areas.tolist(), strict=True))
        if found != expected:
            raise DatasetError(
                f"{name}: the panoptic map has segments and areas {found}, but the index says {expected}"
            )
        unknown = {info["category_id"] for info in infos} - self._category_names.keys()
        if unknown:
            raise DatasetError(f"{name}: category ids {sorted(unknown)} are not in the index")
        return tuple(
            GroundTruthSegment(
                info["id"], self._category_names[info["category_id"]], self._is_thing[info["category_id"]]
            )
            for info in infos
        )


def _render(config: DatasetConfig, number: int) -> Frame:
    with TabletopSimulator(
        config.seed + number, split=config.split, width=config.width, height=config.height
    ) as simulator:
        return simulator.render()


def _write_image(job: tuple[DatasetConfig, int, Path]) -> None:
    config, number, out = job
    frame = _render(config, number)
    name = f"{number:06d}.png"
    millimetres = np.round(frame.depth * _MILLIMETRES)
    depth = np.where(millimetres <= _DEEPEST, millimetres, 0).astype(np.uint16)
    for folder, content in zip(_PNG_FOLDERS, (frame.image, ids_to_rgb(frame.segment_ids), depth), strict=True):
        write_image(out / folder / name, content)
    ids = category_ids()
    record = {
        "image": {
            "id": number + 1,
            "file_name": name,
            "width": config.width,
            "height": config.height,
            "depth_file_name": name,
            "camera_matrix": frame.camera_matrix.tolist(),
            "scene_seed": config.seed + number,
        },
        "annotation": {
            "image_id": number + 1,
            "file_name": name,
            "segments_info": [
                {
                    "id": segment.id,
                    "category_id": ids[segment.label],
                    "area": int(np.count_nonzero(frame.segment_ids == segment.id)),
                    "bbox": tight_box(frame.segment_ids == segment.id),
                    "iscrowd": 0,
                }
                for segment in frame.segments
            ],
        },
    }
    write_json(_record_path(out, number), record)


def _index_of(config: DatasetConfig, records: list[dict[str, Any]]) -> dict[str, Any]:
    ids = category_ids()
    return {
        "info": {
            "description": "simulated tabletop of ovseg_ros",
            "split": config.split,
            "seed": config.seed,
            "width": config.width,
            "height": config.height,
        },
        "categories": [
            {
                "id": ids[spec.name],
                "name": spec.name,
                "supercategory": categories.split_pair(spec.name)[1] if spec.is_thing else "surface",
                "isthing": int(spec.is_thing),
                "seen": int(spec.name in categories.SEEN),
            }
            for spec in categories.TABLETOP_SPECS
        ],
        "images": [record["image"] for record in records],
        "annotations": [record["annotation"] for record in records],
    }


def _record_path(out: Path, number: int) -> Path:
    return out / "records" / f"{number:06d}.json"


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DatasetError(f"{path} cannot be read: {error}; delete it and write the data set again") from error
    if not isinstance(value, dict):
        raise DatasetError(f"{path} holds a {type(value).__name__}; expected an object; write the data set again")
    return value
