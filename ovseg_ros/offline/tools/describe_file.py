"""A descriptions file while it is written: whole after each change, or as it was."""

import textwrap
from pathlib import Path
from typing import Any

import yaml

from ovseg_ros.core.descriptions import FORMAT, MAX_BYTES, Description, parse_descriptions, read_bytes
from ovseg_ros.core.errors import ConfigError
from ovseg_ros.core.vocabulary import normalize_name
from ovseg_ros.offline.data.files import write_bytes


class DescriptionsFile:
    """What is in a descriptions file, and the file, which follows every change.

    Attributes:
        path: of the file.
        words: by normalised word, in the file's order.
    """

    def __init__(self, path: Path) -> None:
        """Reads what is there; ConfigError if that is no descriptions file, which would be lost."""
        self.path = path
        self.words: dict[str, Description] = {}
        self._entries: dict[str, str] = {}
        self._content: bytes | None = None
        if path.exists():
            if not path.is_file():  # reading a pipe or a terminal would wait for ever
                raise ConfigError(f"--out {path} is no regular file; expected one, which the next run reads")
            try:
                self._read()
            except ConfigError as error:
                raise ConfigError(
                    f"{error} (it would be replaced by --out; give another file if it is none)"
                ) from error

    def _read(self) -> None:
        content = read_bytes(self.path)
        if content != self._content:
            self.words = parse_descriptions(content, str(self.path))
            self._entries = {word: _entry(word, description) for word, description in self.words.items()}
            self._content = content

    def put(self, *described: tuple[str, Description]) -> None:
        """Add words, or replace what is said of them, and write the file.

        What a person, or another run, changed in it meanwhile stays, and a word that was reviewed is not replaced by
        what nobody has read.

        Raises:
            ConfigError: it would be larger than can be read, or is no descriptions file any more.
            OutputError: it cannot be written; what was there is as it was.
        """
        if self.path.exists():
            self._read()
        for word, description in described:
            name = normalize_name(word)
            if name in self.words and self.words[name].reviewed and not description.reviewed:
                continue
            self.words[name], self._entries[name] = description, _entry(name, description)
        entries = "".join(self._entries.values())
        content = f"format: {FORMAT}\nwords:{'' if entries else ' {}'}\n{entries}".encode()
        if len(content) > MAX_BYTES:
            raise ConfigError(
                f"{self.path} would have more than {MAX_BYTES} bytes, which is not read; write the rest to a new --out"
            )
        write_bytes(self.path, content)
        self._content = content


def _entry(word: str, description: Description) -> str:
    """A word's lines in the file."""
    values: dict[str, Any] = {"sense": description.sense} if description.sense or description.is_blank else {}
    values |= {name: list(phrases) for name, phrases in description.attributes.items()}
    values |= {"by": description.by, "reviewed": description.reviewed}
    text: str = yaml.safe_dump(
        {word: values}, allow_unicode=True, sort_keys=False, default_flow_style=None, width=10**6
    )
    return textwrap.indent(text, "  ")
