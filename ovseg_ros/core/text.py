"""Words to vectors: prompts, averaged templates, and a cache so that a word is encoded once."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ovseg_ros.core.types import TextEmbeddings
from ovseg_ros.core.vocabulary import Vocabulary

_BATCH_SENTENCES = 128
_CACHED_PHRASES = 50_000


class TextEncoder:
    """Embeds vocabularies. Safe to call from several threads.

    A phrase's vector is the mean over templates of unit vectors, made unit again (as in CLIP's zero-shot recipe).
    """

    def __init__(self, encode: Callable[[Sequence[str]], Tensor], templates: Sequence[str]) -> None:
        """`encode`: sentences -> (N, D) unit vectors; `templates` contain one `{}` each, which the phrase replaces."""
        if not templates or any(template.count("{}") != 1 for template in templates):
            raise ValueError(f"every template needs exactly one {{}}, got {list(templates)}")
        self._encode = encode
        self._templates = tuple(templates)
        self._cache: OrderedDict[str, Tensor] = OrderedDict()
        self._lock = threading.Lock()

    def encode(self, vocabulary: Vocabulary) -> TextEmbeddings:
        """One vector for every name and synonym; only phrases that were not seen before are computed."""
        prompts = [(phrase, k) for k, c in enumerate(vocabulary.categories) for phrase in (c.name, *c.synonyms)]
        vectors = self._vectors([phrase for phrase, _ in prompts])
        owners = torch.tensor([owner for _, owner in prompts], dtype=torch.int64, device=vectors.device)
        return TextEmbeddings(vectors, owners, vocabulary)

    def _vectors(self, phrases: list[str]) -> Tensor:
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
