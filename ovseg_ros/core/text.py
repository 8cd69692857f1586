"""Words to vectors: prompts, averaged templates, and a cache so that a word is encoded once."""

import copy
import threading
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ovseg_ros.core.descriptions import DescriptionFiles, Descriptions
from ovseg_ros.core.engine.precision import store
from ovseg_ros.core.types import TextEmbeddings
from ovseg_ros.core.vocabulary import Vocabulary, as_read
from ovseg_ros.core.vocabulary.lists import listed, not_told_apart

_SENTENCES_AT_ONCE = 16_384
_KEPT_PHRASES = 50_000
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


_Key = tuple[str, tuple[str, ...]]
"""A phrase, and what its description says."""


@dataclass(frozen=True, slots=True)
class _Lost:
    """Phrases of which a text encoder loses something.

    Attributes:
        unknown: have signs that it does not know.
        cut: lose their end in one template or more.
        unknown_descriptions, cut_descriptions: of these, it is in what their descriptions say.
    """

    unknown: list[str]
    cut: list[str]
    unknown_descriptions: list[str]
    cut_descriptions: list[str]


class TextEncoder:
    """Embeds vocabularies. Safe to call from several threads.

    A phrase's vector is the mean of its sentences' unit vectors, made unit again (as in CLIP's zero-shot recipe, and in
    CuPL). Its sentences are the templates with the phrase in them, or what its description says.

    Attributes:
        tower: the network that reads; no part of the model, so whoever stores that in half precision stores this, too.
            Vectors are float32 all the same. None where there is none.
    """

    def __init__(
        self,
        encode: Callable[[Sequence[str]], Tensor],
        templates: Sequence[str],
        reader: Reader | None = None,
        descriptions: DescriptionFiles | None = None,
        *,
        tower: nn.Module | None = None,
    ) -> None:
        """What the encoder is made of.

        Args:
            encode: sentences -> (N, D) unit vectors.
            templates: contain one `{}` each, which the phrase replaces.
            reader: None where nobody knows what is lost of a sentence.
            descriptions: of some phrases; read at every call, so that a changed file counts at once.
            tower: what `encode` runs, for whoever converts or moves it.
        """
        if not templates or any(template.count("{}") != 1 for template in templates):
            raise ValueError(f"every template needs exactly one {{}}, got {list(templates)}")
        self.tower = tower
        self._encode = encode
        self._templates = tuple(templates)
        self._reader = reader
        self._descriptions = descriptions
        self._kept = _KeptVectors(_KEPT_PHRASES)

    def store(self, dtype: torch.dtype) -> None:
        """Converts the tower's weights in place, and forgets the vectors that it made before."""
        if self.tower is not None:
            store(self.tower, dtype)
        self._kept = _KeptVectors(_KEPT_PHRASES)

    def anew(self) -> "TextEncoder":
        """The same, but that it has kept no vectors: words that are read together come out alike to rounding only."""
        other = copy.copy(self)
        other._kept = _KeptVectors(_KEPT_PHRASES)
        return other

    def replace(self, encode: Callable[[Sequence[str]], Tensor]) -> None:
        """Reads without the tower from now on, for all who hold this encoder, and forgets the vectors made before."""
        self.tower, self._encode = None, encode
        self._kept = _KeptVectors(_KEPT_PHRASES)

    def encode(self, vocabulary: Vocabulary) -> TextEmbeddings:
        """One vector for every name and synonym; only phrases with new sentences are computed.

        Raises:
            ConfigError: a descriptions file is gone or malformed.
        """
        prompts, descriptions = _prompts(vocabulary), self.described()
        vectors = self._vectors([as_read(phrase) for phrase, _ in prompts], descriptions)
        owners = torch.tensor([owner for _, owner in prompts], dtype=torch.int64, device=vectors.device)
        return TextEmbeddings(vectors, owners, vocabulary, descriptions)

    def remarks(self, text: TextEmbeddings) -> tuple[str, ...]:
        """Which words of an embedded vocabulary are read in part, or are one with another category's; in sentences.

        The work is linear in the words.
        """
        remarks = not_told_apart("the text encoder", _same(text))
        if self._reader is None:
            return tuple(remarks)
        lost = self._lost(self._reader, [phrase for phrase, _ in _prompts(text.vocabulary)], text.descriptions)
        limit = f"the text encoder reads {self._reader.context_length} tokens and cuts the rest"
        signs = "the text encoder does not know all characters of"
        if lost.unknown:
            remarks.append(f"{signs} {listed(lost.unknown)}; use other words")
        if lost.cut:
            remarks.append(f"{limit}, as of {listed(lost.cut)}; use shorter words")
        if lost.unknown_descriptions:
            remarks.append(f"{signs} the descriptions of {listed(lost.unknown_descriptions)}; correct them")
        if lost.cut_descriptions:
            remarks.append(f"{limit}, as of the descriptions of {listed(lost.cut_descriptions)}; shorten them")
        return tuple(remarks)

    def vectors(self, phrases: Sequence[str]) -> Tensor:
        """One unit vector for each phrase as it is, (N, D); errors and work as of `encode`."""
        return self._vectors(phrases, self.described())

    def sentences(self, phrase: str, descriptions: Descriptions | None) -> tuple[str, ...]:
        """What is averaged for a phrase: what is said of it, else, or as well if that is asked for, the templates."""
        described = descriptions.sentences(phrase) if descriptions is not None else ()
        if described and descriptions is not None and not descriptions.with_templates:
            return described
        return (*described, *(template.format(phrase) for template in self._templates))

    def described(self) -> Descriptions | None:
        """What the descriptions files say now; None if there are none. Errors as of `encode`."""
        return self._descriptions.current() if self._descriptions is not None else None

    def _vectors(self, phrases: Sequence[str], descriptions: Descriptions | None) -> Tensor:
        # The templates are always the same, so that they are no part of the key.
        keys = [(phrase, descriptions.sentences(phrase) if descriptions is not None else ()) for phrase in phrases]
        rows, vectors = self._kept.find(keys)
        new: defaultdict[int, dict[_Key, tuple[str, ...]]] = defaultdict(dict)
        for key in keys:
            if key not in rows:
                sentences = self.sentences(key[0], descriptions)
                new[len(sentences)][key] = sentences
        for count, group in new.items():
            names, at_once = list(group), max(1, _SENTENCES_AT_ONCE // count)
            for start in range(0, len(names), at_once):
                some = names[start : start + at_once]
                vectors.append(self._embed([group[key] for key in some]))
                self._kept.add(some, vectors[-1])
                rows.update(zip(some, range(len(rows), len(rows) + len(some)), strict=True))
        wanted = torch.tensor([rows[key] for key in keys], device=vectors[0].device)
        return torch.cat(vectors)[wanted]  # (P, D)

    @torch.inference_mode()
    def _embed(self, phrases: list[tuple[str, ...]]) -> Tensor:
        """(N, D) unit vectors of N phrases, each of equally many sentences."""
        sentences = [sentence for sentences in phrases for sentence in sentences]
        vectors = self._encode(sentences).unflatten(0, (len(phrases), len(phrases[0])))  # (N, S, D)
        return F.normalize(vectors.mean(dim=1), dim=-1)

    def _lost(self, reader: Reader, phrases: list[str], descriptions: Descriptions | None) -> "_Lost":
        described = {phrase: descriptions.sentences(phrase) for phrase in phrases} if descriptions is not None else {}
        told = [phrase for phrase, sentences in described.items() for _ in sentences]
        readings = reader.read([as_read(phrase) for phrase in phrases])
        before = max(tokens for tokens, _ in reader.read([t.split("{}")[0] for t in self._templates]))
        told_readings = reader.read([s for sentences in described.values() for s in sentences]) if told else []
        room = reader.context_length - before + _ENDS
        pairs = list(zip(phrases, readings, strict=True))
        in_template = set(phrases)
        if descriptions is not None and not descriptions.with_templates:
            in_template -= set(told)
        unknown = [phrase for phrase, (_, unknown) in pairs if unknown]
        told_pairs = list(zip(told, told_readings, strict=True))
        return _Lost(
            unknown,
            [phrase for phrase, (tokens, _) in pairs if tokens > room and phrase in in_template],
            list(dict.fromkeys(phrase for phrase, (_, some) in told_pairs if some and phrase not in unknown)),
            list(dict.fromkeys(phrase for phrase, (tokens, _) in told_pairs if tokens > reader.context_length)),
        )


class _KeptVectors:
    """Vectors of the phrases used last, rows of one matrix. Safe to call from several threads, none of which waits for
    a text tower here.
    """

    def __init__(self, most: int) -> None:
        """`most`: phrases that are kept."""
        self._most = most
        self._rows: OrderedDict[_Key, int] = OrderedDict()
        """All rows up to their number, those used last at the end."""
        self._matrix = torch.empty(0, 0)
        self._lock = threading.Lock()

    def find(self, keys: Sequence[_Key]) -> tuple[dict[_Key, int], list[Tensor]]:
        """Those of `keys` that are kept, each with its row, and the (N, D) that rows are of; none if none is."""
        with self._lock:
            known = [key for key in dict.fromkeys(keys) if key in self._rows]
            if not known:
                return {}, []
            for key in known:
                self._rows.move_to_end(key)
            rows = torch.tensor([self._rows[key] for key in known], device=self._matrix.device)
            return {key: row for row, key in enumerate(known)}, [self._matrix[rows]]

    def add(self, keys: Sequence[_Key], vectors: Tensor) -> None:
        """Keeps vectors (N, D), in place of those that were not used for longest."""
        with self._lock:
            new = [index for index, key in enumerate(keys) if key not in self._rows][-self._most :]
            freed = [self._rows.popitem(last=False)[1] for _ in range(len(self._rows) + len(new) - self._most)]
            used = len(self._rows) + len(freed)
            rows = [*freed, *range(used, len(self._rows) + len(new))]
            if rows and rows[-1] >= len(self._matrix):
                self._grow(rows[-1] + 1, vectors)
            self._matrix[rows] = vectors[new]
            self._rows.update((keys[index], row) for index, row in zip(new, rows, strict=True))

    def _grow(self, rows: int, like: Tensor) -> None:
        size = min(self._most, max(rows, 2 * len(self._matrix)))
        with torch.inference_mode(False):  # else it could be changed in inference mode alone
            grown = torch.empty(size, like.shape[1], dtype=like.dtype, device=like.device)
        if len(self._matrix):
            grown[: len(self._matrix)] = self._matrix
        self._matrix = grown


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
