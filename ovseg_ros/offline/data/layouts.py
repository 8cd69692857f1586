"""What a data set's files are called, below its own folder: what is looked for, and where a pattern leads.

A pattern says how a file is called as published. Copies differ: photographs and label maps may have the suffix of any
picture that Pillow reads, in upper or lower case, and lie in subfolders; hidden files do not count; "ü" may be one
character or, as macOS writes it, two. That is the one rule for everything that reads data sets.
"""

import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ovseg_ros.core.errors import DatasetError
from ovseg_ros.offline.data.kinds import Kind, files_below, kind_of


@dataclass(frozen=True, slots=True)
class Files:
    """The files of one kind that a split needs.

    Attributes:
        patterns: where they may be below the data set's folder, as globs, or the one file; the first to exist counts.
        note: what the files hold, where that is not obvious.
    """

    patterns: tuple[str, ...]
    note: str = ""

    @property
    def expected(self) -> str:
        """Where they are expected, for people."""
        return ", or ".join(self.patterns) + (f" ({self.note})" if self.note else "")

    def are_in(self, root: Path) -> bool:
        """Whether any is there."""
        if "*" not in self.patterns[0]:
            return self.place(root).is_file()
        return next(self._named(root), None) is not None

    def pictures(self, root: Path) -> dict[str, Path]:
        """All that are there, by name: the path below `place` without what every name ends with.

        Of two files that differ in nothing but the suffix, the one as published counts, else the first.

        Raises:
            DatasetError: there are two, and the pattern is a folder, so that none can be told from the other.
        """
        suffix = self.suffix(root)
        found: dict[str, Path] = {}
        for name, path in self._named(root):
            if name in found and not suffix:
                raise DatasetError(
                    f"{found[name]} and {path} have one name; keep one of them, or say which by a pattern such as "
                    f"{self._found(root)}{path.suffix}"
                )
            if name not in found or path.name.endswith(suffix):
                found[name] = path
        return found

    def place(self, root: Path) -> Path:
        """The folder that all of them are below, or the one file."""
        return root / self._found(root).partition("*")[0]

    def glob(self, root: Path) -> str:
        """What to look for in `place`, such as "*/*_leftImg8bit.png"."""
        pattern = self._found(root)
        return pattern[pattern.index("*") :]

    def suffix(self, root: Path) -> str:
        """How every name ends, such as "_leftImg8bit.png"; "" where it may end in any way."""
        return self._found(root).rpartition("*")[2]

    def _found(self, root: Path) -> str:
        """The first pattern that leads to something, else the usual one."""
        return next((one for one in self.patterns if (root / one.partition("*")[0]).exists()), self.patterns[0])

    def _named(self, root: Path) -> Iterator[tuple[str, Path]]:
        folder, (tail, _, _) = self.place(root), _composed(self.suffix(root)).rpartition(".")
        for path in files_below(folder) if folder.is_dir() else ():
            stem = _composed(path.relative_to(folder).with_suffix("").as_posix())
            if kind_of(path) is Kind.PICTURE and stem.endswith(tail):
                yield stem.removesuffix(tail), path


def _composed(name: str) -> str:
    """A name in which an accent is no character of its own."""
    return unicodedata.normalize("NFC", name)
