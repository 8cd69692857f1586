"""Words to vectors: prompts, averaged templates, and a cache so that a word is encoded once."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ovseg_ros.core.types import TextEmbeddings
from ovseg_ros.core.vocabulary import Vocabulary, as_read
from ovseg_ros.core.vocabulary.lists import listed, not_told_apart

_BATCH_SENTENCES = 128
_CACHED_PHRASES = 50_000
_SAME = 1e-3
"""Distance of unit vectors that differ by rounding alone; different words are hundreds of times as far apart."""
_ENDS = 2
"""The start's and the end's token."""


@dataclass(frozen=True, slots=True)
class Reader:
    """What a text encoder's tokenizer loses of a sentence.

    Attributes:
        read: sentences -> of each, how many tokens it has before it is cut, the start's and the end's included, and how
            many of these stand for signs that the encoder was never trained with.
        context_length: most tokens that the encoder takes.
    """

    read: Callable[[Sequence[str]], Sequence[tuple[int, int]]]
    context_length: int


class TextEncoder:
    """Embeds vocabularies. Safe to call from several threads.

    A phrase's vector is the mean over templates of unit vectors, made unit again (as in CLIP's zero-shot recipe).
    """

    def __init__(
        self, encode: Callable[[Sequence[str]], Tensor], templates: Sequence[str], reader: Reader | None = None
    ) -> None:
        """What the encoder is made of.

        Args:
            encode: sentences -> (N, D) unit vectors.
            templates: contain one `{}` each, which the phrase replaces.
            reader: None where nobody knows what is lost of a sentence.
        """
        if not templates or any(template.count("{}") != 1 for template in templates):
            raise ValueError(f"every template needs exactly one {{}}, got {list(templates)}")
        self._encode = encode
        self._templates = tuple(templates)
        self._reader = reader
        self._cache: OrderedDict[str, Tensor] = OrderedDict()
        self._lock = threading.Lock()

    def encode(self, vocabulary: Vocabulary) -> TextEmbeddings:
        """One vector for every name and synonym; only phrases that were not seen before are computed."""
        prompts = _prompts(vocabulary)
        vectors = self.vectors([as_read(phrase) for phrase, _ in prompts])
        owners = torch.tensor([owner for _, owner in prompts], dtype=torch.int64, device=vectors.device)
        return TextEmbeddings(vectors, owners, vocabulary)

    def remarks(self, text: TextEmbeddings) -> tuple[str, ...]:
        """Which words of an embedded vocabulary are read in part, or are one with another category's; in sentences.

        The work is linear in the words.
        """
        unknown, cut = self._lost([phrase for phrase, _ in _prompts(text.vocabulary)])
        same = _same(text)
        remarks = not_told_apart("the text encoder", same)
        if unknown:
            remarks.append(f"the text encoder does not know all characters of {listed(unknown)}; use other words")
        if cut and self._reader is not None:
            limit = f"reads {self._reader.context_length} tokens and cuts the rest"
            remarks.append(f"the text encoder {limit}, as of {listed(cut)}; use shorter words")
        return tuple(remarks)

    def _lost(self, phrases: list[str]) -> tuple[list[str], list[str]]:
        """Phrases with unknown signs, and phrases whose end is cut in one template or more."""
        if self._reader is None:
            return [], []
        with self._lock:  # a tokenizer belongs to one thread at a time
            readings = self._reader.read([as_read(phrase) for phrase in phrases])
            before = max(tokens for tokens, _ in self._reader.read([t.split("{}")[0] for t in self._templates]))
        room = self._reader.context_length - before + _ENDS
        pairs = list(zip(phrases, readings, strict=True))
        unknown = [phrase for phrase, (_, unknown) in pairs if unknown]
        return unknown, [phrase for phrase, (tokens, _) in pairs if tokens > room]

    def vectors(self, phrases: Sequence[str]) -> Tensor:
        """One unit vector for each phrase as it is, (N, D); only phrases that were not seen before are computed."""
        with self._lock:
            known = {phrase: self._cache[phrase] for phrase in phrases if phrase in self._cache}
            new = [phrase for phrase in dict.fromkeys(phrases) if phrase not in known]
            batch = max(1, _BATCH_SENTENCES // len(self._templates))
            for start in range(0, len(new), batch):
                some = new[start : start + batch]
                known.update(zip(some, self._embed(some), strict=True))
            for phrase in phrases:
                self._cache[phrase] = known[phrase]
                self._cache.move_to_end(phrase)
            while len(self._cache) > _CACHED_PHRASES:
                self._cache.popitem(last=False)
        return torch.stack([known[phrase] for phrase in phrases])  # (P, D)

    @torch.inference_mode()
    def _embed(self, phrases: list[str]) -> Tensor:
        """(N, D) unit vectors of N phrases."""
        sentences = [template.format(phrase) for phrase in phrases for template in self._templates]
        vectors = self._encode(sentences).unflatten(0, (len(phrases), len(self._templates)))  # (N, T, D)
        return F.normalize(vectors.mean(dim=1), dim=-1)


def _prompts(vocabulary: Vocabulary) -> list[tuple[str, int]]:
    """Every name and synonym with the index of its category."""
    return [(phrase, k) for k, c in enumerate(vocabulary.categories) for phrase in (c.name, *c.synonyms)]


def _same(text: TextEmbeddings) -> list[list[str]]:
    """Groups of phrases with one vector, one of each category."""
    vectors = text.vectors.float()
    # Sorted by their place on a line, equal vectors are neighbours.
    order = (vectors @ torch.arange(1, vectors.shape[1] + 1).to(vectors).sin()).argsort()
    is_same = ((vectors[order[1:]] - vectors[order[:-1]]).norm(dim=1) < _SAME).tolist()
    prompts = _prompts(text.vocabulary)
    groups: list[dict[int, str]] = [{}]
    for place, follows in zip(order.tolist(), [False, *is_same], strict=True):
        phrase, owner = prompts[place]
        if not follows:
            groups.append({})
        groups[-1].setdefault(owner, phrase)
    return [[group[owner] for owner in sorted(group)] for group in groups if len(group) > 1]
