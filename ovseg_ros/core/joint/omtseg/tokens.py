"""A vocabulary as one text: all names in a row, a mark before each and a separator behind."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ovseg_ros.core.errors import CheckpointError

PLACEHOLDER = -1
"""Stands for the mark before a name, whose vector is in no table."""


class Tokenizer(ABC):
    """Words to rows of a table.

    Attributes:
        start, end: before and after a text.
        unknown: of what the table does not have.
        separator: after a name.
        size: rows that it needs.
    """

    start: int = 0
    end: int = 2
    unknown: int = 3
    separator: int
    size: int

    @abstractmethod
    def tokens(self, name: str) -> list[int]:
        """Of one name, without marks; none of an empty one. Case makes no difference."""


class SentencePieceTokenizer(Tokenizer):
    """BEiT-3's: a SentencePiece model, whose ids are counted as XLM-RoBERTa does, one higher than in the file."""

    def __init__(self, path: Path) -> None:
        """CheckpointError if sentencepiece is not installed, or the file is missing, damaged or of other words."""
        try:
            from sentencepiece import SentencePieceProcessor  # only presets with such a file need it
        except ImportError as error:
            raise CheckpointError(
                f"{path.name} needs the package sentencepiece ({error}); run: pip install 'sentencepiece>=0.2,<1'"
            ) from error
        try:
            self._model = SentencePieceProcessor()
            self._model.LoadFromSerializedProto(path.read_bytes())  # given a folder's path, it would end the process
        except (OSError, RuntimeError) as error:
            raise CheckpointError(f"{path} is no readable SentencePiece model: {error}; fetch it again") from error
        piece = self._model.piece_to_id("▁;")
        if piece == self._model.unk_id():
            raise CheckpointError(f"{path} has no piece '▁;', so it is not BEiT-3's beit3.spm; fetch that")
        self.separator = piece + 1
        self.size = self._model.get_piece_size() + 1

    def tokens(self, name: str) -> list[int]:
        """See `Tokenizer`. In lower case, as the names of the training were; SentencePiece tells them apart."""
        unknown = self._model.unk_id()
        return [self.unknown if piece == unknown else piece + 1 for piece in self._model.encode(name.lower())]


class WordTokenizer(Tokenizer):
    """A short list of words, of which names consist; for models that know no others."""

    separator = 4

    def __init__(self, words: Sequence[str]) -> None:
        """`words` in lower case, each once."""
        self._ids = {word: self.separator + 1 + index for index, word in enumerate(words)}
        self.size = self.separator + 1 + len(words)

    def tokens(self, name: str) -> list[int]:
        """See `Tokenizer`."""
        return [self._ids.get(word, self.unknown) for word in name.lower().split()]


@dataclass(frozen=True, slots=True)
class PromptText:
    """Names as one text.

    Attributes:
        ids: of all tokens; `PLACEHOLDER` before each name.
        places: of each name, where its mark is.
    """

    ids: tuple[int, ...]
    places: tuple[int, ...]


def write_text(
    names: Sequence[Sequence[int]], tokenizer: Tokenizer, separators: Sequence[int] | None = None
) -> PromptText:
    """The text of names' tokens: start, of each name its mark, tokens and separators, end.

    Args:
        separators: how many follow each name; None = 1.
    """
    ids, places = [tokenizer.start], []
    for name, count in zip(names, separators or [1] * len(names), strict=True):
        places.append(len(ids))
        ids += [PLACEHOLDER, *name, *[tokenizer.separator] * count]
    return PromptText((*ids, tokenizer.end), tuple(places))
