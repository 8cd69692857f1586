"""A public weight file: where it is published, and where it lies on this machine once it has been fetched."""

from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

from pydantic import NonNegativeInt
from pydantic.dataclasses import dataclass

from ovseg_ros.core.config import STRICT
from ovseg_ros.core.weights.files import cached_file, checkpoint_folder, repository_folder


@dataclass(frozen=True, slots=True, kw_only=True, config=STRICT)
class WeightFile:
    """One file that `ovseg download` fetches: `file` of `repo`, or what lies at `url`.

    Attributes:
        repo: hub repository, "owner/name"; "spaces/owner/name" of a space.
        file: its name there.
        url: of a file that is not on the hub, https; its name is the last part of the path.
        alternatives: other names under which the same weights may lie in `repo`, should `file` not.
        bytes: its size, as far as known; for planning, not for checking.
        licence: under which it is published, as its page says.
        sha256: of the content of `file` or `url`; None relies on the checksum that the hub states for `file`, and of a
            `url` on the size that its server announces.
        revision: branch, tag or commit of `repo`; None is the main branch.
    """

    repo: str | None = None
    file: str | None = None
    url: str | None = None
    bytes: NonNegativeInt
    licence: str
    alternatives: tuple[str, ...] = ()
    sha256: str | None = None
    revision: str | None = None

    def __post_init__(self) -> None:
        if self.url is None:
            if self.repo is None or self.file is None:
                raise ValueError("expected repo and file, or url")
        elif self.repo is not None or self.file is not None or self.alternatives or self.revision is not None:
            raise ValueError("expected repo and file, or url; file, alternatives and revision go with repo")
        elif not self.url.startswith("https://") or self.name in ("", ".."):
            raise ValueError(f"url is {self.url!r}; expected the https address of a file")

    @property
    def name(self) -> str:
        """The file's own name, the preferred one."""
        return self.file or PurePosixPath(urlsplit(self.url or "").path).name

    @property
    def names(self) -> tuple[str, ...]:
        """`name` and its alternatives, the preferred one first."""
        return (self.name, *self.alternatives)

    @property
    def where(self) -> str:
        """The published file, for sentences."""
        return self.url or f"{self.file} of {self.repo}"

    def address(self, name: str) -> str:
        """The published file, or its alternative of that name, for lists."""
        return self.url or f"{self.repo}/{name}"

    def folder(self, cache: Path | None = None) -> Path:
        """Where the file lies once it has been fetched; of a `repo`, somewhere below."""
        return repository_folder(self.repo, cache) if self.repo is not None else checkpoint_folder(cache)

    def cached(self, cache: Path | None = None) -> Path | None:
        """The file on this machine; None if it has not been fetched.

        Args:
            cache: a folder in place of the hub's cache (HF_HUB_CACHE) and of PyTorch's (TORCH_HOME).
        """
        if self.repo is not None:
            return cached_file(self.repo, self.names, revision=self.revision, cache=cache)
        path = self.folder(cache) / self.name
        return path if path.is_file() else None
