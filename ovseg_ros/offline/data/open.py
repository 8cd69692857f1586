"""The data sets that ovseg knows, everybody's own, and the one way to open them."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from ovseg_ros.core.config import find_config
from ovseg_ros.core.errors import ConfigError, DatasetError
from ovseg_ros.core.resources import config_dir
from ovseg_ros.offline.data.categories import categories_of_form
from ovseg_ros.offline.data.files import digest_of
from ovseg_ros.offline.data.forms import (
    Form,
    InstancesForm,
    PanopticForm,
    PanopticSplit,
    SemanticForm,
    SemanticSplit,
    Split,
    load_form,
    splits_of,
)
from ovseg_ros.offline.data.instances import InstancesFiles
from ovseg_ros.offline.data.layouts import Files
from ovseg_ros.offline.data.panoptic import PanopticFiles
from ovseg_ros.offline.data.semantic import CategorySegments, SemanticFiles
from ovseg_ros.offline.data.types import DatasetCategory
from ovseg_ros.sim.categories import SEEN, TABLETOP_SPECS, UNSEEN, held_out_synonym
from ovseg_ros.sim.scene import SPLITS

ROOT_VARIABLE = "OVSEG_DATASETS"
"""Environment variable with the folder that holds a folder for each data set, where no root is given."""

TABLETOP = "tabletop"

FileDataset = PanopticFiles | InstancesFiles | CategorySegments | SemanticFiles


@dataclass(frozen=True, slots=True)
class DatasetInfo:
    """What is known of a data set before it is opened.

    Attributes:
        name: as `open_dataset` takes it.
        form: what its file says.
        file: that file.
        splits: by name.
        groups: names of categories whose figures are of interest by themselves, by the group's name.
        held_out: for some ways of renaming, a name for each category that no training text contains.
    """

    name: str
    form: Form
    file: Path
    splits: Mapping[str, Split]
    groups: Mapping[str, frozenset[str]] = field(default_factory=dict)
    held_out: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def is_panoptic(self) -> bool:
        """Whether its ground truth is segments, so that panoptic quality means something."""
        return not isinstance(self.form, SemanticForm) or self.form.segments != "none"

    @property
    def is_own(self) -> bool:
        """Whether it is none that comes with the package."""
        return self.name != TABLETOP and self.file.parent != config_dir() / "datasets"

    @property
    def digest(self) -> str:
        """SHA-256 of all that its file says, but for where the data are."""
        said = {key: value for key, value in asdict(self.form).items() if key not in ("path", "folder", "classes")}
        return digest_of([said, [asdict(category) for category in self.categories()]])

    def categories(self) -> tuple[DatasetCategory, ...]:
        """Its categories; none where they stand in its annotations. Errors as of `categories_of_form`."""
        return categories_of_form(self.form, self.file)

    def parts(self, split: str) -> list[Files]:
        """What a split needs."""
        form, files = self.form, self.splits[split]
        if not (isinstance(form, SemanticForm) and isinstance(files, SemanticSplit)):
            return files.parts("")
        numbers = [category.dataset_id for category in self.categories()]
        bits = f"{form.bits}-bit, " if form.bits else ""
        return files.parts(f"{bits}{_ranges(numbers)}{f'; {_ranges(form.ignore)} = ignore' if form.ignore else ''}")

    def index(self, split: str) -> Files | None:
        """The JSON file of a split; None where there is none."""
        return None if isinstance(self.form, SemanticForm) else self.splits[split].parts("")[0]


def _ranges(numbers: Sequence[int]) -> str:
    """Such as "1-11, 13"."""
    ranges: list[list[int]] = []
    for number in sorted(numbers):
        if ranges and ranges[-1][1] == number - 1:
            ranges[-1][1] = number
        else:
            ranges.append([number, number])
    return ", ".join(f"{first}-{last}" if last > first else str(first) for first, last in ranges)


def open_dataset(name: str, root: Path | None, split: str = "") -> FileDataset:
    """Open one split of a data set; no image is read.

    Args:
        name: of a file in config/datasets, or the path of such a file; or "tabletop".
        root: the data set's own folder; if None, as its file says, or its folder below `$OVSEG_DATASETS`.
        split: one of the data set's splits; "" is the one that a tabletop folder holds, and val of all others.

    Raises:
        ConfigError: an unknown name or split, no root, or a file that is wrong.
        DatasetError: a folder or an index is missing or malformed.
    """
    info = dataset_info(name)
    if split or name != TABLETOP:
        split = split or "val"
        require_split(info, split)
    root = dataset_root(info, root)
    parts = info.parts(split or next(iter(info.splits)))
    require_root(info, root, parts)
    match info.form:
        case SemanticForm() as form:
            labelled = SemanticFiles(name, root, split, info.categories(), parts, form)
            if form.segments == "none":
                return labelled
            separate = [c.index for c in labelled.categories if c.is_thing]
            return CategorySegments(labelled, separate, form.smallest_area)
        case InstancesForm() as form:
            return InstancesFiles(name, root, split, info.categories(), parts, form)
        case PanopticForm() as form:
            files = PanopticFiles(name, root, split, info.categories(), parts, form)
            if name == TABLETOP:
                _require_tabletop(files, [split] if split else list(info.splits))
            return files


def _require_tabletop(files: PanopticFiles, splits: Sequence[str]) -> None:
    """Refuses a folder that holds another split: they are made of other scenes, and all look alike."""
    info = files.index.info
    if info.get("split") not in splits:
        expected = " or ".join(map(repr, splits))
        raise DatasetError(f"{files.index.path} holds the split {info.get('split')!r}; expected {expected}")
    files.split = str(info["split"])
    files.scenes = {key: info[key] for key in ("seed", "width", "height") if isinstance(info.get(key), int)}


def dataset_info(name: str) -> DatasetInfo:
    """What is known of the data set `name`.

    Raises:
        ConfigError: there is none of that name, or its file is wrong.
    """
    if name == TABLETOP:
        return _tabletop()
    path = find_config("data set", name, config_dir() / "datasets", besides=(TABLETOP,))
    form = load_form(path)
    return DatasetInfo(name, form, path, splits_of(form))


def _tabletop() -> DatasetInfo:
    """Simulated, so it has what no file says; a folder of it is one split."""
    split = PanopticSplit(images=("images/*.png",), masks=("panoptic/*.png",), annotations=("panoptic.json",))
    return DatasetInfo(
        TABLETOP,
        PanopticForm(folder=TABLETOP, train=split, classes=TABLETOP, ids=tuple(range(1, 101))),
        Path(TABLETOP),
        dict.fromkeys(SPLITS, split),
        groups={"seen": SEEN, "unseen": UNSEEN},
        held_out={
            "synonyms": tuple(held_out_synonym(spec.name) for spec in TABLETOP_SPECS),
            "synonyms_and_colors": tuple(held_out_synonym(spec.name, replace_color=True) for spec in TABLETOP_SPECS),
        },
    )


def shipped_datasets() -> list[str]:
    """Names of the data sets that come with the package."""
    return [*sorted(path.stem for path in (config_dir() / "datasets").glob("*.yaml")), TABLETOP]


def require_split(info: DatasetInfo, split: str) -> None:
    """Raises ConfigError unless the data set has the split."""
    if split not in info.splits:
        raise ConfigError(f"{info.name} has no split {split!r}; expected {', '.join(info.splits)}")


def require_root(info: DatasetInfo, root: Path, parts: Sequence[Files]) -> None:
    """Raises DatasetError unless the data set's folder is there."""
    if not root.is_dir():
        problem = "is a file" if root.exists() else "is missing"
        expected = "; ".join(part.expected for part in parts)
        advice = f"; correct path in {info.file}, or give --root DIR" if info.is_own else ""
        raise DatasetError(f"the folder {root} of {info.name} {problem}{advice}; expected in it: {expected}")


def dataset_root(info: DatasetInfo, root: Path | None) -> Path:
    """The data set's folder: `root`, or the one that its file says, or that below `$OVSEG_DATASETS`; it need not exist.

    Raises:
        ConfigError: none is given.
    """
    if root is not None:
        return root
    if not info.form.folder:
        return info.file.parent / Path(info.form.path).expanduser()
    parent = os.environ.get(ROOT_VARIABLE)
    if not parent:
        raise ConfigError(
            f"where is {info.name}? Give its folder (--root DIR of evaluate and check-dataset, --data DIR of train), "
            f"or set {ROOT_VARIABLE} to the folder that holds {info.form.folder}/"
        )
    return Path(parent) / info.form.folder
