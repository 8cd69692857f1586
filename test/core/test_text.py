"""Text embeddings: averaged templates, caching, order of prompts."""

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from ovseg_ros.core.text import TextEncoder
from ovseg_ros.core.vocabulary import CategorySpec, Vocabulary


class LetterEncoder:
    """Counts letters: an exact, hand-checkable stand-in for a text tower. Records what it was asked."""

    def __init__(self) -> None:
        self.sentences: list[str] = []

    def __call__(self, sentences: Sequence[str]) -> Tensor:
        self.sentences += sentences
        counts = torch.tensor([[float(sentence.count(letter)) for letter in "abc"] for sentence in sentences])
        return torch.nn.functional.normalize(counts + 0.01, dim=-1)


def vocabulary(*specs: CategorySpec) -> Vocabulary:
    return Vocabulary.build(specs)


def test_every_name_and_synonym_is_a_prompt_of_its_category() -> None:
    text = TextEncoder(LetterEncoder(), ["{}"]).encode(
        vocabulary(CategorySpec("a", synonyms=("aa", "ab")), CategorySpec("c"))
    )
    assert text.category_of_prompt.tolist() == [0, 0, 0, 1]
    assert text.vectors.shape == (4, 3)
    torch.testing.assert_close(text.vectors.norm(dim=1), torch.ones(4))
    assert text.vectors.argmax(dim=1).tolist() == [0, 0, 0, 2]


def test_templates_are_averaged_as_unit_vectors() -> None:
    text = TextEncoder(LetterEncoder(), ["{}", "bbbbbb {}"]).encode(vocabulary(CategorySpec("a")))
    encode = LetterEncoder()
    mean = encode(["a", "bbbbbb a"]).mean(dim=0)
    torch.testing.assert_close(text.vectors[0], mean / mean.norm())


def test_a_word_is_encoded_once() -> None:
    encode = LetterEncoder()
    encoder = TextEncoder(encode, ["{}", "x {}"])
    encoder.encode(vocabulary(CategorySpec("a"), CategorySpec("b")))
    assert len(encode.sentences) == 4
    second = encoder.encode(vocabulary(CategorySpec("b"), CategorySpec("c")))
    assert encode.sentences[4:] == ["c", "x c"]
    assert second.vectors[0].argmax() == 1 and second.vectors[1].argmax() == 2


def test_a_thousand_words_are_encoded_in_batches() -> None:
    specs = [CategorySpec("a" * (1 + index % 40) + f" {index}") for index in range(1000)]
    encode = LetterEncoder()
    text = TextEncoder(encode, ["{}"]).encode(Vocabulary.build(specs))
    assert text.vectors.shape == (1000, 3)
    assert len(encode.sentences) == 1000


@pytest.mark.parametrize("templates", [[], ["no place"], ["{} and {}"]])
def test_templates_need_exactly_one_place(templates: list[str]) -> None:
    with pytest.raises(ValueError, match="exactly one"):
        TextEncoder(LetterEncoder(), templates)
