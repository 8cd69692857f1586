"""Sentences to vectors by any text tower, without work that no sentence asks for.

Tokens are kept for each piece between white space, so that a template costs nothing for the next word; batches are of
sentences of about one length, so that hardly anything is padding.
"""

import re
import threading
from collections.abc import Callable, Iterator, Sequence
from itertools import chain

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

_PLAIN = re.compile(r"[ -%'-;=-Z\\-~]*")
"""ASCII without the signs that may belong to something longer: of HTML, and of names of special tokens."""
_KEPT_PIECES, _PIECES_AT_ONCE = 100_000, 1000
_PADDING = 0


class PieceTokenizer:
    """Tokens of sentences, by a tokenizer that reads each piece between white space by itself. Any thread may call it.

    What is not plain ASCII is read whole: cleaning it up may look across white space.
    """

    def __init__(self, tokenize: Callable[[Sequence[str]], Sequence[Sequence[int]]]) -> None:
        """`tokenize`: texts -> tokens of each, without the start's and the end's; by one thread at a time."""
        self._tokenize = tokenize
        self._known: dict[str, Sequence[int]] = {}
        self._lock = threading.Lock()

    def __call__(self, sentences: Sequence[str]) -> list[list[int]]:
        """Of each sentence its tokens, however many."""
        pieces = [sentence.split() if _PLAIN.fullmatch(sentence) else [sentence] for sentence in sentences]
        known = self._known
        new = list(dict.fromkeys(piece for some in pieces for piece in some if piece not in known))
        for start in range(0, len(new), _PIECES_AT_ONCE):
            some = new[start : start + _PIECES_AT_ONCE]
            with self._lock:
                known.update(zip(some, self._tokenize(some), strict=True))
        if len(known) > _KEPT_PIECES:
            self._known = {}
        return [list(chain.from_iterable(map(known.__getitem__, some))) for some in pieces]


class SentenceEncoder:
    """Sentences to unit vectors; any thread may call it.

    Attributes:
        tower: the text tower; its weights may be in half precision.
        context_length: most tokens of a sentence, the start's and the end's included; longer ones are cut.
    """

    def __init__(
        self,
        tower: nn.Module,
        embed: Callable[[Tensor], Tensor],
        tokens: PieceTokenizer,
        *,
        ends: tuple[int, int],
        context_length: int,
        unknown: int | None = None,
    ) -> None:
        """What reads.

        Args:
            embed: tokens (N, L) on the tower's device, zeros behind the end -> vectors (N, D), by the tower.
            ends: the start's and the end's token.
            unknown: the token of signs that the tower was never trained with; None if it knows all.
        """
        self.tower, self.context_length = tower, context_length
        self._embed, self._tokens, self._ends, self._unknown = embed, tokens, ends, unknown

    def __call__(self, sentences: Sequence[str]) -> Tensor:
        """(N, D) float32 unit vectors, on the tower's device; a GPU is waited for nowhere."""
        device = next(self.tower.parameters()).device
        start, end = self._ends
        rows = [[start, *row[: self.context_length - 2], end] for row in self._tokens(sentences)]
        order = sorted(range(len(rows)), key=lambda index: len(rows[index]))
        tokens_at_once, few = (32_768, 256) if device.type == "cuda" else (512, 16)
        vectors = [
            F.normalize(self._embed(_uploaded(_padded(batch), device)).float(), dim=-1)
            for batch in batches([rows[index] for index in order], tokens_at_once, few)
        ]
        places = np.empty(len(order), np.int64)
        places[order] = np.arange(len(order))
        return torch.cat(vectors)[_uploaded(places, device)]

    def count(self, sentences: Sequence[str]) -> list[tuple[int, int]]:
        """Of each sentence: its tokens before it is cut, start's and end's included, and how many are unknown."""
        unknown = self._unknown
        return [(2 + len(row), 0 if unknown is None else row.count(unknown)) for row in self._tokens(sentences)]


def batches(rows: Sequence[list[int]], most: int, few: int) -> Iterator[Sequence[list[int]]]:
    """Cuts rows, sorted by length, into batches of at most `most` tokens, and of one length if that makes no fewer than
    `few` rows of it.
    """
    start = 0
    for stop in range(1, len(rows)):
        longest, count = len(rows[stop]), stop - start
        if (count + 1) * longest > most or (count >= few and longest > len(rows[stop - 1])):
            yield rows[start:stop]
            start = stop
    yield rows[start:]


def _padded(rows: Sequence[list[int]]) -> np.ndarray:
    """(N, L) int64 of rows, sorted by length."""
    longest = len(rows[-1])
    return np.array([row + [_PADDING] * (longest - len(row)) for row in rows], np.int64)


def _uploaded(values: np.ndarray, device: torch.device) -> Tensor:
    tensor = torch.from_numpy(values)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor
