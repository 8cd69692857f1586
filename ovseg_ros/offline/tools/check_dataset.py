"""Read a whole data set once and say what is wrong with it: `ovseg check-dataset`."""

import os
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any

import numpy as np
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset
from tqdm import tqdm

from ovseg_ros.core.errors import DatasetError
from ovseg_ros.offline.data.files import read_json, write_json
from ovseg_ros.offline.data.kinds import is_hidden
from ovseg_ros.offline.data.open import dataset_info, dataset_root, open_dataset, require_root, require_split
from ovseg_ros.offline.data.panoptic import PanopticFiles
from ovseg_ros.offline.data.pixels import read_image
from ovseg_ros.offline.data.semantic import SemanticFiles
from ovseg_ros.offline.data.types import IGNORE, PanopticSample
from ovseg_ros.offline.options import CheckDatasetOptions

_SHOWN = 20
# Fewer images are read sooner than another process is started.
_IMAGES_PER_PROCESS = 50

AnyDataset = PanopticFiles | SemanticFiles

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
    """

    name: str
    faults: tuple[str, ...] = ()
    is_void: bool = False
    categories: tuple[int, ...] = ()
    counts: Counter[str] = field(default_factory=Counter)


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
    """

    split: str
    structure: list[str] = field(default_factory=list)
    faults: dict[str, tuple[str, ...]] = field(default_factory=dict)
    images: int = 0
    void: list[str] = field(default_factory=list)
    unlisted: list[str] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    images_of_category: dict[str, int] = field(default_factory=dict)

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
    name, split = options.name, options.split
    if split is not None:
        require_split(name, split)
    root = dataset_root(name, options.root)
    require_root(name, root, split or dataset_info(name).splits[0])
    reports = []
    for each in [split] if split else _splits_present(name, root):
        report = check_split(name, root, each, workers=options.workers or 0)
        _print_report(name, root, report)
        reports.append(report)
    if options.json is not None:
        splits = [_as_json(name, report) for report in reports]
        write_json(options.json, {"dataset": name, "root": str(root), "splits": splits})
    return 0 if all(report.is_faultless for report in reports) else 1


def check_split(name: str, root: Path, split: str, *, workers: int = 0) -> SplitReport:
    """Read every sample of one split; see `check_dataset`."""
    missing = [part.patterns for part in dataset_info(name).layout.parts(split) if not part.are_in(root)]
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
    report.images_of_category = {category.name: shown[category.index] for category in dataset.categories}
    return report


class _ImageChecks(TorchDataset[ImageCheck]):
    """The checks of a data set as a data set, since PyTorch's loader reads those in several processes."""

    def __init__(self, dataset: AnyDataset) -> None:
        self._dataset = dataset

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, index: int) -> ImageCheck:
        name = self._dataset.name_of(index)
        try:
            sample = self._dataset[index]
        except DatasetError as error:
            return ImageCheck(name, faults=self._faults_of_both(index, str(error)))
        if not isinstance(sample, PanopticSample):
            present = np.unique(sample.labels)
            return ImageCheck(name, is_void=sample.is_void, categories=tuple(present[present != IGNORE].tolist()))
        segments = sample.segments
        counts = {
            "segments": len(segments),
            "crowd_segments": sum(segment.is_crowd for segment in segments),
            "empty_segments": sum(segment.area == 0 for segment in segments),
            "segments_with_another_area": sum(segment.area != segment.declared_area for segment in segments),
        }
        return ImageCheck(name, (), sample.is_void, tuple({segment.category for segment in segments}), Counter(counts))

    def _faults_of_both(self, index: int, fault: str) -> tuple[str, ...]:
        """`fault`, and what is wrong with the image besides, since reading a sample stops at the first fault."""
        try:
            read_image(self._dataset.paths_of(index)[0])
        except DatasetError as error:
            return tuple(dict.fromkeys((fault, str(error))))
        return (fault,)


def _splits_present(name: str, root: Path) -> list[str]:
    """The splits of which any file is there, else all of them; of a tabletop folder, the one that it holds."""
    info = dataset_info(name)
    if name == "tabletop":
        try:
            found = read_json(root / "panoptic.json", "")["info"]["split"]
        except (DatasetError, KeyError, TypeError):
            found = None  # opening it as the first says what is wrong
        return [found if found in info.splits else info.splits[0]]
    present = [split for split in info.splits if any(part.are_in(root) for part in info.layout.parts(split))]
    for split in info.splits:
        if present and split not in present:
            print(f"{name} {split} in {root}: no file of it is there; not checked")
    return present or list(info.splits)


def _unlisted(dataset: AnyDataset) -> list[str]:
    """Files beside the split's files, of the same kind, that no sample uses."""
    folders: dict[Path, set[str]] = {}
    for index in range(len(dataset)):
        for path in dataset.paths_of(index):
            folders.setdefault(path.parent, set()).add(path.name)
    unlisted = []
    for folder, used in folders.items():
        suffixes = {Path(name).suffix for name in used}
        if folder.is_dir():  # else every file in it is a fault already
            beside = (p for p in sorted(folder.iterdir()) if p.suffix in suffixes and not is_hidden(PurePath(p.name)))
            unlisted += [str(path) for path in beside if path.name not in used]
    return unlisted


def _print_report(name: str, root: Path, report: SplitReport) -> None:
    where = f"{name} {report.split} in {root}"
    info = dataset_info(name)
    if report.structure:
        expected = [f"  {part.expected}" for part in info.layout.parts(report.split)]
        lines = [*report.structure, "expected in that folder:", *expected]
        print(f"{where}: cannot be used", *(f"  {line}" for line in lines), sep="\n")
        return
    print(f"{where}: {report.images} images, {len(report.faults)} with faults")
    for sample, faults in list(report.faults.items())[:_SHOWN]:
        for fault in faults:
            print(f"  {sample}: {fault}")
    if len(report.faults) > _SHOWN:
        print(f"  and {len(report.faults) - _SHOWN} more; --json FILE writes all of them")
    published = info.images[report.split]
    if published not in (0, report.images):
        print(f"  {published} images are in the published split; some are missing, or this is a part of it")
    for count, what in (
        (len(report.void), "images have no labelled pixel; training skips them"),
        (len(report.unlisted), "files are beside them that no image of this split uses"),
        *((report.counts[key], what) for key, what in _COUNTED.items()),
        (sum(not images for images in report.images_of_category.values()), "categories do not occur"),
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
        **{key: report.counts[key] for key in _COUNTED},
        "images_of_category": report.images_of_category,
    }
