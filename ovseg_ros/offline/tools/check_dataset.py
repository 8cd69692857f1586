"""Read a whole data set once and say what is wrong with it: `ovseg check-dataset`."""

import hashlib
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path, PurePath
from typing import Any

import numpy as np
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset
from tqdm import tqdm

from ovseg_ros.core.errors import DatasetError
from ovseg_ros.offline.data.files import read_json, write_json
from ovseg_ros.offline.data.instances import InstancesFiles
from ovseg_ros.offline.data.kinds import is_hidden
from ovseg_ros.offline.data.open import (
    TABLETOP,
    DatasetInfo,
    FileDataset,
    dataset_info,
    dataset_root,
    open_dataset,
    require_root,
    require_split,
)
from ovseg_ros.offline.data.pixels import read_image
from ovseg_ros.offline.data.types import IGNORE, DatasetCategory, PanopticSample
from ovseg_ros.offline.options import CheckDatasetOptions

_SHOWN = 20
# Fewer images are read sooner than another process is started.
_IMAGES_PER_PROCESS = 50

_COUNTED = {
    "segments": "segments",
    "crowd_segments": "of them are crowd regions",
    "empty_segments": "of them have no pixel; training skips them, panoptic quality counts them as missed",
    "segments_with_another_area": "of them have another area than the index says",
}
"""What is counted of a panoptic data set's segments, and how it is told."""


@dataclass(frozen=True, slots=True)
class ImageCheck:
    """What reading one sample showed.

    Attributes:
        name: of the sample.
        faults: what is wrong with its files; empty if nothing is.
        is_void: whether no pixel has a label.
        categories: indices of the categories in it.
        counts: of its segments, by the keys of `_COUNTED`; empty in a semantic data set.
        segments, pixels: how many there are of each category, by its index.
        digest: of the image file; "" if it has a fault.
    """

    name: str
    faults: tuple[str, ...] = ()
    is_void: bool = False
    categories: tuple[int, ...] = ()
    counts: Counter[str] = field(default_factory=Counter)
    segments: Counter[int] = field(default_factory=Counter)
    pixels: Counter[int] = field(default_factory=Counter)
    digest: str = ""


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
        counts: sums of `ImageCheck.counts`.
        images_of_category: name -> number of images that show it, for every category.
        categories: of the data set.
        segments_of, pixels_of: sums of `ImageCheck.segments` and `ImageCheck.pixels`.
        digests: of the image files, with the samples' names.
    """

    split: str
    structure: list[str] = field(default_factory=list)
    faults: dict[str, tuple[str, ...]] = field(default_factory=dict)
    images: int = 0
    void: list[str] = field(default_factory=list)
    unlisted: list[str] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    images_of_category: dict[str, int] = field(default_factory=dict)
    categories: tuple[DatasetCategory, ...] = ()
    segments_of: Counter[int] = field(default_factory=Counter)
    pixels_of: Counter[int] = field(default_factory=Counter)
    digests: dict[str, str] = field(default_factory=dict)

    @property
    def is_faultless(self) -> bool:
        """Whether nothing is wrong."""
        return not self.structure and not self.faults


def check_dataset(options: CheckDatasetOptions) -> int:
    """Check a data set, print what was found, and return the exit code: 0 faultless, 1 faults were found.

    Raises:
        ConfigError: an unknown name or split, or no root.
        DatasetError: the root is no folder.
    """
    info, split = dataset_info(options.name), options.split
    if split is not None:
        require_split(info, split)
    root = dataset_root(info, options.root)
    require_root(info, root, info.parts(split or next(iter(info.splits))))
    reports = []
    for each in [split] if split else _splits_present(info, root):
        report = check_split(options.name, root, each, workers=options.workers or 0)
        _print_report(info, root, report)
        reports.append(report)
    faults = _print_differences(info, reports)
    if options.json is not None:
        splits = [_as_json(info, report) for report in reports]
        write_json(options.json, {"dataset": options.name, "root": str(root), "splits": splits})
    return 0 if all(report.is_faultless for report in reports) and not faults else 1


def check_split(name: str, root: Path, split: str, *, workers: int = 0) -> SplitReport:
    """Read every sample of one split; see `check_dataset`."""
    missing = [part.patterns for part in dataset_info(name).parts(split) if not part.are_in(root)]
    report = SplitReport(split, structure=[f"missing: {', or '.join(patterns)}" for patterns in missing])
    if missing:
        return report
    try:
        dataset = open_dataset(name, root, split)
    except DatasetError as error:
        report.structure.append(str(error))
        return report
    report.images = len(dataset)
    report.unlisted = _unlisted(dataset)
    report.categories = dataset.categories
    shown: Counter[int] = Counter()
    workers = min(workers or os.cpu_count() or 1, -(-len(dataset) // _IMAGES_PER_PROCESS))
    # In order, so that two runs report the same.
    checks = DataLoader(_ImageChecks(dataset), batch_size=None, num_workers=workers if workers > 1 else 0)
    for check in tqdm(checks, total=len(dataset), desc=f"{name} {split}", unit="image"):
        if check.faults:
            report.faults[check.name] = check.faults
        if check.is_void:
            report.void.append(check.name)
        shown.update(check.categories)
        report.counts.update(check.counts)
        report.segments_of.update(check.segments)
        report.pixels_of.update(check.pixels)
        report.digests[check.digest] = check.name
    report.images_of_category = {category.name: shown[category.index] for category in dataset.categories}
    return report


class _ImageChecks(TorchDataset[ImageCheck]):
    """The checks of a data set as a data set, since PyTorch's loader reads those in several processes."""

    def __init__(self, dataset: FileDataset) -> None:
        self._dataset = dataset

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, index: int) -> ImageCheck:
        name = self._dataset.name_of(index)
        try:
            sample = self._dataset[index]
        except DatasetError as error:
            return ImageCheck(name, faults=self._faults_of_both(index, str(error)))
        digest = hashlib.blake2b(self._dataset.paths_of(index)[0].read_bytes(), digest_size=16).hexdigest()
        if not isinstance(sample, PanopticSample):
            present, pixels = np.unique(sample.labels[sample.labels != IGNORE], return_counts=True)
            found = dict(zip(present.tolist(), pixels.tolist(), strict=True))
            return ImageCheck(name, (), sample.is_void, tuple(found), pixels=Counter(found), digest=digest)
        segments = sample.segments
        pixels_of: Counter[int] = Counter()
        for segment in segments:
            pixels_of[segment.category] += segment.area
        counts = {
            "segments": len(segments),
            "crowd_segments": sum(segment.is_crowd for segment in segments),
            "empty_segments": sum(segment.area == 0 for segment in segments),
            "segments_with_another_area": sum(segment.area != segment.declared_area for segment in segments),
        }
        number_of = Counter(segment.category for segment in segments)
        return ImageCheck(name, (), sample.is_void, tuple(number_of), Counter(counts), number_of, pixels_of, digest)

    def _faults_of_both(self, index: int, fault: str) -> tuple[str, ...]:
        """`fault`, and what is wrong with the image besides, since reading a sample stops at the first fault."""
        try:
            read_image(self._dataset.paths_of(index)[0])
        except DatasetError as error:
            return tuple(dict.fromkeys((fault, str(error))))
        return (fault,)


def _splits_present(info: DatasetInfo, root: Path) -> list[str]:
    """The splits of which any file is there, else all of them; of a tabletop folder, the one that it holds."""
    name, splits = info.name, list(info.splits)
    if name == TABLETOP:
        try:
            found = read_json(root / "panoptic.json", "")["info"]["split"]
        except (DatasetError, KeyError, TypeError):
            found = None  # opening it as the first says what is wrong
        return [found if found in splits else splits[0]]
    present = [split for split in splits if any(part.are_in(root) for part in info.parts(split))]
    for split in splits:
        if present and split not in present:
            print(f"{name} {split} in {root}: no file of it is there; not checked")
    return present or splits


def _unlisted(dataset: FileDataset) -> list[str]:
    """Files beside the split's files, of the same kind, that no sample uses."""
    folders: dict[Path, set[str]] = {}
    for index in range(len(dataset)):
        for path in dataset.paths_of(index)[: 1 if isinstance(dataset, InstancesFiles) else 2]:
            if path.suffix:  # else it is a folder: the index does not say what the file is called
                folders.setdefault(path.parent, set()).add(path.name)
    unlisted = []
    for folder, used in folders.items():
        suffixes = {Path(name).suffix for name in used}
        if folder.is_dir():  # else every file in it is a fault already
            beside = (p for p in sorted(folder.iterdir()) if p.suffix in suffixes and not is_hidden(PurePath(p.name)))
            unlisted += [str(path) for path in beside if path.name not in used]
    return unlisted


def _print_report(info: DatasetInfo, root: Path, report: SplitReport) -> None:
    where = f"{info.name} {report.split} in {root}"
    if report.structure:
        expected = [f"  {part.expected}" for part in info.parts(report.split)]
        lines = [*report.structure, "expected in that folder:", *expected]
        print(f"{where}: cannot be used", *(f"  {line}" for line in lines), sep="\n")
        return
    print(f"{where}: {report.images} images, {len(report.faults)} with faults")
    for sample, faults in list(report.faults.items())[:_SHOWN]:
        for fault in faults:
            print(f"  {sample}: {fault}")
    if len(report.faults) > _SHOWN:
        print(f"  and {len(report.faults) - _SHOWN} more; --json FILE writes all of them")
    published = info.splits[report.split].published
    if published not in (0, report.images):
        print(f"  {published} images are in the published split; some are missing, or this is a part of it")
    absent = [name for name, images in report.images_of_category.items() if not images]
    named = f": {_listed(absent)}" if info.is_own else ""
    unlisted = f": {_listed(report.unlisted)}" if info.is_own else ""
    for count, what in (
        (len(report.void), "images have no labelled pixel; training skips them"),
        (len(report.unlisted), f"files are beside them that no image of this split uses{unlisted}"),
        *((report.counts[key], what) for key, what in _COUNTED.items()),
        (len(absent), f"categories do not occur{' in the others' if report.faults else ''}{named}"),
    ):
        if count:
            print(f"  {count} {what}")
    if info.is_own:
        _print_categories(report)


def _print_categories(report: SplitReport) -> None:
    """A row for each category that occurs, so that one sees whether the list of classes is right."""
    pixels, panoptic = max(sum(report.pixels_of.values()), 1), bool(report.counts["segments"])
    print(f"  {'category':30} {'kind':5} {'images':>7}{'  segments' if panoptic else ''}  pixels")
    for category in report.categories:
        if not report.images_of_category[category.name]:
            continue
        segments = f" {report.segments_of[category.index]:9}" if panoptic else ""
        print(
            f"  {category.dataset_id:3} {category.name[:26]:26} {'thing' if category.is_thing else 'stuff'} "
            f"{report.images_of_category[category.name]:7}{segments} {report.pixels_of[category.index] / pixels:7.2%}"
        )


def _print_differences(info: DatasetInfo, reports: Sequence[SplitReport]) -> bool:
    """Says which splits share images, and which have other categories; whether that is a fault."""
    is_fault = False
    for one, other in combinations([report for report in reports if report.categories], 2):
        if shared := [name for digest, name in one.digests.items() if digest and digest in other.digests]:
            print(
                f"{info.name}: {len(shared)} images of {one.split} are in {other.split} too, so that figures would be "
                f"of images that were learned: {_listed(shared)}"
            )
        if one.categories != other.categories:
            is_fault = True
            names = {(c.dataset_id, c.name, c.is_thing) for c in one.categories}
            names ^= {(c.dataset_id, c.name, c.is_thing) for c in other.categories}
            differ = [f"{number} ({name})" for number, name in dict.fromkeys((n, name) for n, name, _ in sorted(names))]
            print(
                f"{info.name}: {one.split} and {other.split} differ in categories: {_listed(differ) or 'synonyms'}; "
                "give both annotation files one list"
            )
    return is_fault


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"{', '.join(names[:_SHOWN])}{more}"


def _as_json(info: DatasetInfo, report: SplitReport) -> dict[str, Any]:
    return {
        "split": report.split,
        "faultless": report.is_faultless,
        "structure": report.structure,
        "images": report.images,
        "published_images": info.splits[report.split].published or None,
        "faults": [{"name": name, "faults": list(faults)} for name, faults in report.faults.items()],
        "void": report.void,
        "unlisted": report.unlisted,
        **{key: report.counts[key] for key in _COUNTED},
        "images_of_category": report.images_of_category,
        "pixels_of_category": {c.name: report.pixels_of[c.index] for c in report.categories},
    }
