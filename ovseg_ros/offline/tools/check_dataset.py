"""Read a whole data set once and say what is wrong with it: `ovseg check-dataset`."""

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset
from tqdm import tqdm

from ovseg_ros.core.errors import DatasetError
from ovseg_ros.offline.data.files import write_json
from ovseg_ros.offline.data.open import LayoutPart, dataset_info, dataset_root, open_dataset, require_split
from ovseg_ros.offline.data.panoptic import PanopticFiles
from ovseg_ros.offline.data.panoptic_index import read_json
from ovseg_ros.offline.data.pixels import read_image
from ovseg_ros.offline.data.semantic import SemanticFiles
from ovseg_ros.offline.data.types import IGNORE, PanopticSample

_SHOWN = 20
# Fewer images are read sooner than another process is started.
_IMAGES_PER_PROCESS = 50

AnyDataset = PanopticFiles | SemanticFiles


@dataclass(frozen=True, slots=True)
class ImageCheck:
    """What reading one sample showed.

    Attributes:
        name: of the sample.
        faults: what is wrong with its files; empty if nothing is.
        is_void: whether no pixel has a label.
        categories: indices of the categories in it.
        segments, crowd, empty, other_area: number of segments; of those, crowd regions, segments without a pixel, and
            segments whose declared area is not the number of their pixels. All 0 in a semantic data set.
    """

    name: str
    faults: tuple[str, ...] = ()
    is_void: bool = False
    categories: tuple[int, ...] = ()
    segments: int = 0
    crowd: int = 0
    empty: int = 0
    other_area: int = 0


@dataclass(slots=True)
class SplitReport:
    """What is wrong with one split, and what is in it.

    Attributes:
        split: its name.
        structure: faults of folders and indices; the images were not read if there are any.
        faults: name of the sample -> what is wrong with its files.
        images: number of samples.
        void: names of the samples without a labelled pixel; no fault.
        unlisted: image and annotation files that belong to no sample; no fault.
        segments, crowd, empty, other_area: sums of `ImageCheck`.
        images_of_category: name -> number of images that show it, for every category.
    """

    split: str
    structure: list[str] = field(default_factory=list)
    faults: dict[str, tuple[str, ...]] = field(default_factory=dict)
    images: int = 0
    void: list[str] = field(default_factory=list)
    unlisted: list[str] = field(default_factory=list)
    segments: int = 0
    crowd: int = 0
    empty: int = 0
    other_area: int = 0
    images_of_category: dict[str, int] = field(default_factory=dict)

    @property
    def is_faultless(self) -> bool:
        """Whether nothing is wrong."""
        return not self.structure and not self.faults


def check_dataset(
    name: str, root: Path | None, *, split: str | None = None, workers: int = 0, json_path: Path | None = None
) -> int:
    """Check a data set, print what was found, and return the exit code: 0 faultless, 1 faults were found.

    Args:
        name: as `open_dataset` takes it.
        root: the data set's folder, or None for the one below `$OVSEG_DATASETS`.
        split: one split, or None for all of them.
        workers: processes that read images; 0 = one for each core.
        json_path: where to write everything that was found.

    Raises:
        ConfigError: an unknown name or split, or no root.
    """
    if split is not None:
        require_split(name, split)
    root = dataset_root(name, root)
    reports = []
    for each in [split] if split else _splits_present(name, root):
        report = check_split(name, root, each, workers=workers)
        _print_report(name, root, report)
        reports.append(report)
    if json_path is not None:
        write_json(
            json_path, {"dataset": name, "root": str(root), "splits": [_as_json(name, report) for report in reports]}
        )
    return 0 if all(report.is_faultless for report in reports) else 1


def check_split(name: str, root: Path, split: str, *, workers: int = 0) -> SplitReport:
    """Read every sample of one split; see `check_dataset`."""
    report = SplitReport(split)
    parts = dataset_info(name).parts(split)
    report.structure += [f"missing: {', or '.join(part.patterns)}" for part in parts if not _is_there(root, part)]
    if report.structure:
        return report
    try:
        dataset = open_dataset(name, root, split)
    except DatasetError as error:
        report.structure.append(str(error))
        return report
    report.images = len(dataset)
    report.unlisted = _unlisted(dataset)
    shown: Counter[int] = Counter()
    with tqdm(total=len(dataset), desc=f"{name} {split}", unit="image") as bar:
        for check in _checks(dataset, workers):
            bar.update()
            if check.faults:
                report.faults[check.name] = check.faults
            if check.is_void:
                report.void.append(check.name)
            shown.update(check.categories)
            report.segments += check.segments
            report.crowd += check.crowd
            report.empty += check.empty
            report.other_area += check.other_area
    report.images_of_category = {category.name: shown[category.index] for category in dataset.categories}
    return report


def check_image(dataset: AnyDataset, index: int) -> ImageCheck:
    """Read one sample and say what is wrong with each of its files."""
    name = dataset.name_of(index)
    try:
        sample = dataset[index]
    except DatasetError as error:
        return ImageCheck(name, faults=_faults_of_both(dataset, index, str(error)))
    if not isinstance(sample, PanopticSample):
        present = np.unique(sample.labels)
        return ImageCheck(name, is_void=sample.is_void, categories=tuple(present[present != IGNORE].tolist()))
    return ImageCheck(
        name,
        is_void=sample.is_void,
        categories=tuple({segment.category for segment in sample.segments}),
        segments=len(sample.segments),
        crowd=sum(segment.is_crowd for segment in sample.segments),
        empty=sum(segment.area == 0 for segment in sample.segments),
        other_area=sum(segment.area != segment.declared_area for segment in sample.segments),
    )


def _faults_of_both(dataset: AnyDataset, index: int, fault: str) -> tuple[str, ...]:
    """`fault`, and what is wrong with the image besides, since reading a sample stops at the first fault."""
    try:
        read_image(dataset.paths_of(index)[0])
    except DatasetError as error:
        return (fault,) if str(error) == fault else (fault, str(error))
    return (fault,)


def _checks(dataset: AnyDataset, workers: int) -> Iterator[ImageCheck]:
    """In order, so that two runs report the same."""
    workers = min(workers or os.cpu_count() or 1, -(-len(dataset) // _IMAGES_PER_PROCESS))
    if workers <= 1:
        for index in range(len(dataset)):
            yield check_image(dataset, index)
        return
    yield from DataLoader(_ImageChecks(dataset), batch_size=None, num_workers=workers)


class _ImageChecks(TorchDataset[ImageCheck]):
    """The checks of a data set as a data set, since PyTorch's loader reads those in several processes."""

    def __init__(self, dataset: AnyDataset) -> None:
        self._dataset = dataset

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, index: int) -> ImageCheck:
        return check_image(self._dataset, index)


def _splits_present(name: str, root: Path) -> list[str]:
    """The splits of which any file is there, else all of them; of a tabletop folder, the one that it holds."""
    splits = dataset_info(name).splits
    if name == "tabletop":
        return [_tabletop_split(root, splits)]
    present = [split for split in splits if any(_is_there(root, part) for part in dataset_info(name).parts(split))]
    for split in set(splits) - set(present or splits):
        print(f"{name} {split} in {root}: no file of it is there; not checked")
    return present or list(splits)


def _tabletop_split(root: Path, splits: Sequence[str]) -> str:
    """The split that the index names; the first if it names none, so that opening it says what is wrong."""
    try:
        info = read_json(root / "panoptic.json").get("info")
    except DatasetError:
        return splits[0]
    found = info.get("split") if isinstance(info, dict) else None
    return str(found) if found in splits else splits[0]


def _is_there(root: Path, part: LayoutPart) -> bool:
    return any(next(root.glob(pattern), None) is not None for pattern in part.patterns)


def _folders(dataset: AnyDataset) -> dict[Path, set[str]]:
    """The folders that the split's files are in, with the names of those files."""
    folders: dict[Path, set[str]] = {}
    for index in range(len(dataset)):
        for path in dataset.paths_of(index):
            folders.setdefault(path.parent, set()).add(path.name)
    return folders


def _unlisted(dataset: AnyDataset) -> list[str]:
    """Files beside the split's files, of the same kind, that no sample uses."""
    unlisted = []
    for folder, used in _folders(dataset).items():
        if not folder.is_dir():
            continue  # every file in it is a fault already
        suffixes = {Path(name).suffix for name in used}
        unlisted += [
            str(path) for path in sorted(folder.iterdir()) if path.suffix in suffixes and path.name not in used
        ]
    return unlisted


def _print_report(name: str, root: Path, report: SplitReport) -> None:
    where = f"{name} {report.split} in {root}"
    if report.structure:
        print(f"{where}: cannot be used")
        for fault in report.structure:
            print(f"  {fault}")
        print("  expected in that folder:")
        for line in dataset_info(name).expected_layout(report.split):
            print(f"    {line}")
        return
    print(f"{where}: {report.images} images, {len(report.faults)} with faults")
    for sample, faults in list(report.faults.items())[:_SHOWN]:
        for fault in faults:
            print(f"  {sample}: {fault}")
    if len(report.faults) > _SHOWN:
        print(f"  and {len(report.faults) - _SHOWN} more; --json FILE writes all of them")
    published = dataset_info(name).images[report.split]
    if published not in (0, report.images):
        print(f"  {published} images are in the published split; some are missing, or this is a part of it")
    absent = [category for category, images in report.images_of_category.items() if not images]
    for count, what in (
        (len(report.void), "images have no labelled pixel; training skips them"),
        (len(report.unlisted), "files are beside them that no image of this split uses"),
        (report.segments, "segments"),
        (report.crowd, "of them are crowd regions"),
        (report.empty, "of them have no pixel; training skips them, panoptic quality counts them as missed"),
        (report.other_area, "of them have another area than the index says"),
        (len(absent), "categories do not occur"),
    ):
        if count:
            print(f"  {count} {what}")


def _as_json(name: str, report: SplitReport) -> dict[str, Any]:
    return {
        "split": report.split,
        "faultless": report.is_faultless,
        "structure": report.structure,
        "images": report.images,
        "published_images": dataset_info(name).images[report.split] or None,
        "faults": [{"name": name, "faults": list(faults)} for name, faults in report.faults.items()],
        "void": report.void,
        "unlisted": report.unlisted,
        "segments": report.segments,
        "crowd_segments": report.crowd,
        "empty_segments": report.empty,
        "segments_with_another_area": report.other_area,
        "images_of_category": report.images_of_category,
    }
