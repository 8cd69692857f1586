"""What data sets have in common whose images are named by an index, a JSON file of COCO's."""

from pathlib import Path, PureWindowsPath
from typing import Any, Generic, TypeVar

from ovseg_ros.core.errors import DatasetError
from ovseg_ros.offline.data.forms import Rename, renamed
from ovseg_ros.offline.data.panoptic_index import CocoIndex
from ovseg_ros.offline.data.types import PanopticDataset

Index = TypeVar("Index", bound=CocoIndex)


class IndexedImages(PanopticDataset, Generic[Index]):
    """One split whose index names its images.

    Attributes:
        index: the parsed file.
    """

    def __init__(
        self, name: str, root: Path, split: str, index: Index, images: Path, image_name: Rename | None
    ) -> None:
        """`images`: the folder of all of them. DatasetError: there is no image in the index; see `require_place`."""
        super().__init__(name, root, split, index.categories)
        self.index, self._images, self._image_name = index, images, image_name
        if not len(index):
            raise DatasetError(f"{index.path} lists no image")
        require_place(index, images, image_name)

    def __len__(self) -> int:
        return len(self.index)

    def name_of(self, index: int) -> str:
        return str(Path(self.index.files[index][0]).with_suffix(""))

    def image_name(self, index: int) -> str:
        """Path of an image's file below the folder of all of them."""
        return renamed(self.index.files[index][0], self._image_name)

    def image_path(self, index: int) -> Path:
        """An image's file, which need not exist."""
        return self._images / self.image_name(index)

    def category_table(self) -> list[dict[str, Any]]:
        return [{**row, **self.index.texts[row["id"]]} for row in super().category_table()]


def require_place(index: CocoIndex, folder: Path, rename: Rename | None) -> None:
    """DatasetError if the index calls images by folders that are elsewhere, as labelling tools do: none is there, and
    the first is, without them, in `folder`."""
    names = [renamed(image, rename) for image, _ in index.files]
    bare = folder / PureWindowsPath(names[0]).name  # which splits at either slash
    if bare.is_file() and not any((folder / name).is_file() for name in names):
        raise DatasetError(
            f"{index.path} has images such as {names[0]}, and none of the {len(names)} is in {folder}, but {bare} is; "
            "write into the data set's file image_name: {pattern: '.*[/\\\\]', to: ''}, which leaves folders out"
        )
