"""What a YAML file says of a data set: where its files are, by split, and what its classes are.

The data sets that ovseg knows (config/datasets) and everybody's own have this one form; docs/datasets.md shows it.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field
from pydantic.dataclasses import dataclass

from ovseg_ros.core.config import STRICT, from_mapping, load_yaml
from ovseg_ros.core.errors import ConfigError
from ovseg_ros.offline.data.layouts import Files

LARGEST_LABEL = 65535
_RANGE = re.compile(r"(\d+)(?:\s*-\s*(\d+))?")


def _several(value: Any) -> Any:
    """One text, or a list of them."""
    return (value,) if isinstance(value, str) else tuple(value) if isinstance(value, list) else value


def _numbers(value: Any) -> Any:
    """A number, a list of them, or text such as "1-11, 13-25"."""
    if type(value) is int:
        return (value,)
    if not isinstance(value, str):
        return _several(value)
    numbers: list[int] = []
    for part in filter(None, map(str.strip, value.split(","))):
        found = _RANGE.fullmatch(part)
        first, last = (int(found[1]), int(found[2] or found[1])) if found else (1, 0)
        if not first <= last <= first + LARGEST_LABEL:
            raise ValueError(f"{part!r} is no number nor range; write them as in '1-11, 13-25'")
        numbers += range(first, last + 1)
    return tuple(numbers)


Paths = Annotated[tuple[Annotated[str, Field(min_length=1)], ...], Field(min_length=1), BeforeValidator(_several)]
Numbers = Annotated[tuple[Annotated[int, Field(ge=0)], ...], BeforeValidator(_numbers)]
Count = Annotated[int, Field(ge=0)]


@dataclass(frozen=True, slots=True, kw_only=True, config=STRICT)
class SemanticSplit:
    """One split of kind semantic; see `SemanticForm`.

    Attributes:
        images, masks: folders below the data set's, or globs such as "*/*_rgb.png"; several are alternatives, of which
            the first that exists counts. A mask has its image's name, but for what a glob says.
        published: number of images, where that is known.
    """

    images: Paths
    masks: Paths
    published: Count = 0

    def parts(self, note: str) -> list[Files]:
        """What it needs: masks, which hold what `note` says, and images."""
        return [_pictures(self.masks, note), _pictures(self.images)]


@dataclass(frozen=True, slots=True, kw_only=True, config=STRICT)
class PanopticSplit:
    """One split of kind panoptic: also `annotations`, the JSON file, which names images and masks."""

    images: Paths
    masks: Paths
    annotations: Paths
    published: Count = 0

    def parts(self, note: str = "") -> list[Files]:
        """What it needs: annotations, masks, images."""
        return [Files(self.annotations, note), _pictures(self.masks), _pictures(self.images)]


@dataclass(frozen=True, slots=True, kw_only=True, config=STRICT)
class InstancesSplit:
    """One split of kind instances: the masks are in `annotations`, the JSON file."""

    images: Paths
    annotations: Paths
    published: Count = 0

    def parts(self, note: str = "") -> list[Files]:
        """What it needs: annotations, images."""
        return [Files(self.annotations, note), _pictures(self.images)]


Split = SemanticSplit | PanopticSplit | InstancesSplit


@dataclass(frozen=True, slots=True, config=STRICT)
class Rename:
    """How an image file is called, where the annotations say otherwise: `pattern`, a regular expression, is replaced
    once by `to`."""

    pattern: str
    to: str

    def __post_init__(self) -> None:
        try:
            re.sub(self.pattern, self.to, "")
        except (re.error, IndexError) as error:
            raise ValueError(f"{self.pattern!r} to {self.to!r}: {error}") from error


def renamed(name: str, rename: Rename | None) -> str:
    """An image file's name by its name in the annotations."""
    return name if rename is None else re.sub(rename.pattern, rename.to, name, count=1)


@dataclass(frozen=True, slots=True, kw_only=True, config=STRICT)
class _Form:
    """What every data set's file may say.

    Attributes:
        path: the data set's folder, from the file's own; "" is the file's own.
        folder: the same below `$OVSEG_DATASETS`.
        classes: number -> name, or a mapping with `name`, `synonyms` and `is_thing`; or a list, whose numbers count
            from 0; or a file that holds either, or a vocabulary's name. None: as the annotations say.
        ids: the numbers of the classes, where those come in another file's order.
        ignore: numbers without a class; their segments are void.
    """

    path: str = ""
    folder: str = ""
    classes: Any = None
    ids: Numbers | None = None
    ignore: Numbers = ()


@dataclass(frozen=True, slots=True, kw_only=True, config=STRICT)
class SemanticForm(_Form):
    """A map of labels for every image.

    Attributes:
        train, val, test: the splits, one or more.
        bits: of the maps, 8 or 16; None for either.
        segments: what is one segment: "stuff", each class; "components", of the classes in `things` each area that
            does not touch another of its class; "none", nothing is: categories alone are measured and learned.
        things: names of classes; those that say `is_thing: true` are among them.
        smallest_area: in pixels; components below are void.
    """

    train: SemanticSplit | None = None
    val: SemanticSplit | None = None
    test: SemanticSplit | None = None
    bits: Literal[8, 16] | None = None
    segments: Literal["stuff", "components", "none"] = "stuff"
    things: tuple[str, ...] = ()
    smallest_area: Count = 0
    kind: Literal["semantic"] = "semantic"


@dataclass(frozen=True, slots=True, kw_only=True, config=STRICT)
class PanopticForm(_Form):
    """COCO's panoptic format; `image_name`: see `Rename`."""

    train: PanopticSplit | None = None
    val: PanopticSplit | None = None
    test: PanopticSplit | None = None
    image_name: Rename | None = None
    kind: Literal["panoptic"] = "panoptic"


@dataclass(frozen=True, slots=True, kw_only=True, config=STRICT)
class InstancesForm(_Form):
    """COCO's instances format: things alone, the rest is void. As `PanopticForm`."""

    train: InstancesSplit | None = None
    val: InstancesSplit | None = None
    test: InstancesSplit | None = None
    image_name: Rename | None = None
    kind: Literal["instances"] = "instances"


Form = SemanticForm | PanopticForm | InstancesForm
_FORMS: Mapping[object, type[Form]] = {"semantic": SemanticForm, "panoptic": PanopticForm, "instances": InstancesForm}


def load_form(path: Path) -> Form:
    """What a data set's file says.

    Raises:
        ConfigError: it cannot be read, or a key or value is refused.
    """
    values = dict(load_yaml(path, "kind: semantic"))
    if "names" in values and "classes" not in values:  # as Ultralytics calls them
        values["classes"] = values.pop("names")
    _refuse_other_forms(values, str(path))
    form = from_mapping(_FORMS[values["kind"]], values, str(path))
    if not splits_of(form):
        raise ConfigError(f"{path} has no split; add train, val or test, such as {_EXAMPLES[form.kind]}")
    if form.path and form.folder:
        raise ConfigError(f"{path} has path and folder; keep path, which starts at the file's own folder")
    return form


def splits_of(form: Form) -> dict[str, Split]:
    """The splits that there are, by name."""
    splits: dict[str, Split | None] = {"train": form.train, "val": form.val, "test": form.test}
    return {name: split for name, split in splits.items() if split is not None}


_EXAMPLES = {
    "semantic": "train: {images: train/images, masks: train/masks}",
    "panoptic": "train: {images: train/images, masks: train/masks, annotations: train/panoptic.json}",
    "instances": "train: {images: train/images, annotations: train/instances.json}",
}
_ELSEWHERE = {
    "nc": "leave it out: classes says how many there are",
    "ignore_classes": "write ignore",
    "valid": "write val",
    "validation": "write val",
    "data": "leave its keys at the top of the file",
}
"""Keys of other programs' files, and what to do."""


def _refuse_other_forms(values: Mapping[str, Any], where: str) -> None:
    """ConfigError for a file of another program's, or without a known kind; it says all that there is to change."""
    faults = [f"unknown key {key!r}; {advice}" for key, advice in _ELSEWHERE.items() if key in values]
    kind = values.get("kind")
    if kind not in _FORMS:
        found = f"unknown kind {kind!r}" if "kind" in values else "missing kind"
        faults.append(
            f"{found}; write kind: semantic (label maps), panoptic (COCO panoptic: JSON and PNGs) or instances (COCO "
            "instances: JSON alone)"
        )
    if names := [name for name in ("train", "val", "test") if isinstance(values.get(name), (str, list))]:
        example = _EXAMPLES[str(kind) if kind in _FORMS else "semantic"].replace("train", names[0])
        faults.append(
            f"{names[0]} is {values[names[0]]!r}; say where images and labels are, such as {example}; labels in YOLO's "
            ".txt files are not read: export them as COCO instances or as label maps"
        )
    if faults:
        raise ConfigError(f"{where}: {'. '.join(faults)}")


def _pictures(patterns: Sequence[str], note: str = "") -> Files:
    """A folder stands for every picture in it."""
    return Files(tuple(text if "*" in text else f"{text.rstrip('/')}/*" for text in patterns), note)
