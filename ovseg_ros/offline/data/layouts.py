"""What a data set's files are called, below its own folder: what is looked for, and where a pattern leads.

A pattern says how a file is called as published. Copies differ: photographs and label maps may have the suffix of any
picture that Pillow reads, in upper or lower case, and lie in subfolders; hidden files do not count. That is
the one rule for everything that reads data sets.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ovseg_ros.core.errors import DatasetError
from ovseg_ros.offline.data.kinds import Kind, files_below, kind_of


@dataclass(frozen=True, slots=True)
class Files:
    """The files of one kind that a split needs.

    Attributes:
        pattern: where they are below the data set's folder, as a glob. {split} stands for train or val, {long} for
            training or validation.
        or_else: where else they may be; "" if nowhere.
        note: what the files hold, where that is not obvious.
    """

    pattern: str
    or_else: str = ""
    note: str = ""

    @property
    def patterns(self) -> list[str]:
        """Both places, the usual one first."""
        return [pattern for pattern in (self.pattern, self.or_else) if pattern]

    @property
    def expected(self) -> str:
        """Where they are expected, for people."""
        return ", or ".join(self.patterns) + (f" ({self.note})" if self.note else "")

    def of_split(self, split: str) -> "Files":
        """The same with the split's names filled in."""
        long = {"train": "training", "val": "validation"}.get(split, split)
        pattern, or_else = (text.format(split=split, long=long) for text in (self.pattern, self.or_else))
        return Files(pattern, or_else, self.note)

    def are_in(self, root: Path) -> bool:
        """Whether any is there."""
        return self.place(root).is_file() if "*" not in self.pattern else bool(self.pictures(root))

    def pictures(self, root: Path) -> dict[str, Path]:
        """All that are there, by name: the path below `place` without what every name ends with.

        Of two files that differ in nothing but the suffix, the one as published counts, else the first.
        """
        folder, (tail, _, _) = self.place(root), self.suffix.rpartition(".")
        found: dict[str, Path] = {}
        for path in files_below(folder) if folder.is_dir() else ():
            stem = path.relative_to(folder).with_suffix("").as_posix()
            if kind_of(path) is Kind.PICTURE and stem.endswith(tail):
                name = stem.removesuffix(tail)
                if name not in found or path.name.endswith(self.suffix):
                    found[name] = path
        return found

    def place(self, root: Path) -> Path:
        """The folder that all of them are below, or the one file: the first that exists, else the usual one."""
        places = [root / pattern.partition("*")[0] for pattern in self.patterns]
        return next((place for place in places if place.exists()), places[0])

    @property
    def glob(self) -> str:
        """What to look for in `place`, such as "*/*_leftImg8bit.png"; the same in either."""
        return self.pattern[self.pattern.index("*") :]

    @property
    def suffix(self) -> str:
        """How every name ends, such as "_leftImg8bit.png"."""
        return self.glob.rpartition("*")[2]


@dataclass(frozen=True, slots=True)
class PanopticLayout:
    """COCO's panoptic format.

    Attributes:
        index: the JSON file.
        annotations: PNGs of segment ids.
        images: the photographs.
        image_path: an image's path in the folder of `images`, from its file name in the index.
        ignored_ids: category ids in the index whose segments are void.
    """

    index: Files
    annotations: Files
    images: Files
    image_path: Callable[[str], str] = str
    ignored_ids: Sequence[int] = ()

    def parts(self, split: str) -> list[Files]:
        """What a split needs: the index, the annotations, the images."""
        return [files.of_split(split) for files in (self.index, self.annotations, self.images)]


@dataclass(frozen=True, slots=True)
class SemanticLayout:
    """A label map for every image, under the same name.

    Attributes:
        labels: the label maps.
        images: the photographs.
        bits: of the label maps, 8 or 16.
        ignored: their values for pixels without a category; any value that no category has is a fault.
    """

    labels: Files
    images: Files
    bits: int
    ignored: Sequence[int]

    def parts(self, split: str) -> list[Files]:
        """What a split needs: the annotations, the images."""
        return [files.of_split(split) for files in (self.labels, self.images)]

    def pairs(self, root: Path, split: str) -> list[tuple[str, Path, Path]]:
        """Name, image and label map for every name in either folder, sorted: a missing file is that sample's fault.

        Raises:
            DatasetError: a folder is missing, or both are empty.
        """
        labels, images = self.parts(split)
        folders = [(files, files.place(root)) for files in (images, labels)]
        missing = [str(folder) for _, folder in folders if not folder.is_dir()]
        if missing:
            raise DatasetError(f"the folder {' and the folder '.join(missing)} is missing; see docs/datasets.md")
        found = [files.pictures(root) for files, _ in folders]
        names = sorted(set().union(*found))
        if not names:
            raise DatasetError(" and ".join(f"{folder} has no {files.glob}" for files, folder in folders))
        image_of, labels_of = (
            {name: paths.get(name, folder / f"{name}{files.suffix}") for name in names}
            for paths, (files, folder) in zip(found, folders, strict=True)
        )
        return [(name, image_of[name], labels_of[name]) for name in names]
