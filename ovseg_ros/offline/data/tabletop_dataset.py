"""The simulated tabletop as a data set: rendered when it is read, or written in COCO panoptic format.

Layout of the folder that `ovseg dataset tabletop` writes:

    panoptic.json                       the index, in COCO's panoptic format; written last
    images/NNNNNN.png                   uint8 RGB
    panoptic/NNNNNN.png                 segment ids, R + 256 G + 65536 B, 0 = void
    depth/NNNNNN.png                    16 bits, millimetres along the optical axis, 0 = nothing within 65.535 m
    records/NNNNNN.json                 the image's entries of the index; written after its three PNGs

A record marks its image as done, so a run that was stopped goes on where it was. Image n shows the scene with seed
`seed + n` of the split; splits never share a scene (see `sim.scene`).
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from ovseg_ros.core.errors import ConfigError
from ovseg_ros.offline.data.coco_panoptic import ids_to_rgb, tight_box
from ovseg_ros.offline.data.files import read_json, write_image, write_json
from ovseg_ros.offline.data.open import dataset_info
from ovseg_ros.offline.data.tabletop_views import render_all
from ovseg_ros.offline.data.types import PanopticDataset, PanopticSample, SegmentLabel
from ovseg_ros.sim import categories
from ovseg_ros.sim.scene import SPLITS
from ovseg_ros.sim.simulator import Frame, TabletopSimulator

INDEX_NAME = "panoptic.json"
_MILLIMETRES = 1000.0
_DEEPEST = 65535
_PNG_FOLDERS = ("images", "panoptic", "depth")
_INDEX_OF = {spec.name: index for index, spec in enumerate(categories.TABLETOP_SPECS)}


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

    @property
    def scenes(self) -> dict[str, int]:
        """See `Dataset`."""
        return {"seed": self.seed, "width": self.width, "height": self.height}


class RenderedTabletop(PanopticDataset):
    """The tabletop rendered when it is read; what `write_dataset` writes has the same images, segments and names."""

    def __init__(self, config: DatasetConfig) -> None:
        super().__init__("tabletop", None, config.split, dataset_info("tabletop").categories(), config.scenes)
        self._config = config

    def __len__(self) -> int:
        return self._config.count

    def __getitem__(self, index: int) -> PanopticSample:
        self._require(index)
        frame = _render(self._config, index)
        return PanopticSample(frame.image, frame.segment_ids.astype(np.int32), _labels(frame), self.name_of(index))

    def name_of(self, index: int) -> str:
        return f"{index:06d}"


def write_dataset(config: DatasetConfig, out: Path, *, workers: int = 0) -> None:
    """Write a data set, or finish one that was stopped; images that are done already are kept.

    Args:
        out: the data set's folder; made if need be.
        workers: rendering processes; 0 = one for each core.

    Raises:
        ConfigError: `out` holds a data set made with another split, seed or resolution.
    """
    facts = {"split": config.split, **config.scenes}
    facts_path = out / "records" / "config.json"
    if facts_path.exists():
        found = read_json(facts_path, "delete it and write the data set again")
        if found != facts:
            raise ConfigError(f"{out} was begun with {found}, not with {facts}; choose another --out")
    write_json(facts_path, facts)
    missing = [(config, number, out) for number in range(config.count) if not _record_path(out, number).exists()]
    done = config.count - len(missing)
    with tqdm(total=config.count, initial=done, desc=f"tabletop {config.split}", unit="image") as bar:
        render_all(_write_image, missing, workers, bar)
    write_json(out / INDEX_NAME, _index_of(config, [_record(out, n) for n in range(config.count)]))


def _render(config: DatasetConfig, number: int) -> Frame:
    with TabletopSimulator(
        config.seed + number, split=config.split, width=config.width, height=config.height
    ) as simulator:
        return simulator.render()


def _labels(frame: Frame) -> tuple[SegmentLabel, ...]:
    areas = np.bincount(frame.segment_ids.reshape(-1)).tolist()
    return tuple(
        SegmentLabel(s.id, _INDEX_OF[s.label], s.is_thing, False, areas[s.id], areas[s.id]) for s in frame.segments
    )


def _write_image(job: tuple[DatasetConfig, int, Path]) -> None:
    config, number, out = job
    frame = _render(config, number)
    name = f"{number:06d}.png"
    millimetres = np.round(frame.depth * _MILLIMETRES)
    depth = np.where(millimetres <= _DEEPEST, millimetres, 0).astype(np.uint16)
    for folder, content in zip(_PNG_FOLDERS, (frame.image, ids_to_rgb(frame.segment_ids), depth), strict=True):
        write_image(out / folder / name, content)
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
                    "category_id": 1 + segment.category,
                    "area": segment.area,
                    "bbox": tight_box(frame.segment_ids == segment.id),
                    "iscrowd": 0,
                }
                for segment in _labels(frame)
            ],
        },
    }
    write_json(_record_path(out, number), record)


def _index_of(config: DatasetConfig, records: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "info": {"description": "simulated tabletop of ovseg_ros", "split": config.split, **config.scenes},
        "categories": [
            {
                "id": 1 + _INDEX_OF[spec.name],
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


def _record(out: Path, number: int) -> dict[str, Any]:
    return read_json(_record_path(out, number), "delete it and run the same command again")
