"""A vocabulary as one text: ids, marks, separators; files that are no tokenizer's; a missing package."""

import io
import sys
from pathlib import Path

import pytest
from sentencepiece import SentencePieceProcessor, SentencePieceTrainer

from ovseg_ros.core.errors import CheckpointError
from ovseg_ros.core.joint.omtseg.tokens import PLACEHOLDER, SentencePieceTokenizer, WordTokenizer, write_text

SENTENCES = ["a traffic light", "the red cup on the table", "a blue ball and a red cube", "some wall or floor"] * 5


def trained(separator: str = "▁;") -> bytes:
    """A SentencePiece model of some words."""
    file = io.BytesIO()
    SentencePieceTrainer.train(
        sentence_iterator=iter(SENTENCES),
        model_writer=file,
        vocab_size=60,
        hard_vocab_limit=False,
        user_defined_symbols=[separator],
        minloglevel=2,
    )
    return file.getvalue()


@pytest.fixture(scope="module")
def model_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("words") / "beit3.spm"
    path.write_bytes(trained())
    return path


def test_ids_are_one_higher_than_in_the_file(model_file: Path) -> None:
    tokenizer, model = SentencePieceTokenizer(model_file), SentencePieceProcessor(model_file=str(model_file))
    assert tokenizer.tokens("red cup") == [piece + 1 for piece in model.encode("red cup")]
    assert len(tokenizer.tokens("red cup")) >= 2
    assert tokenizer.separator == model.piece_to_id("▁;") + 1 and tokenizer.size == model.get_piece_size() + 1
    assert (tokenizer.start, tokenizer.end, tokenizer.unknown) == (0, 2, 3)  # as XLM-RoBERTa counts


@pytest.mark.parametrize(
    "name", ["", " ", "日本", "😀", "a\x00b", "<s>", "</s>", "<unk>", "x" * 5000, "\uff41 cup", "ǰ"]
)
def test_every_name_has_tokens_of_the_table(model_file: Path, name: str) -> None:
    tokenizer = SentencePieceTokenizer(model_file)
    ids = tokenizer.tokens(name)
    assert all(3 <= token < tokenizer.size for token in ids)  # never start, padding or end
    assert bool(ids) == bool(name.strip())
    words = WordTokenizer(["red", "cup"])
    assert set(words.tokens(name)) <= {3, 6}


def test_what_the_table_lacks_is_unknown(model_file: Path) -> None:
    assert SentencePieceTokenizer(model_file).unknown in SentencePieceTokenizer(model_file).tokens("日 cup")
    assert WordTokenizer(["red", "cup"]).tokens("red star cup") == [5, 3, 6]


def test_case_makes_no_difference(model_file: Path) -> None:
    for tokenizer in (SentencePieceTokenizer(model_file), WordTokenizer(["red", "cup"])):
        assert tokenizer.tokens("Red CUP") == tokenizer.tokens("red cup")
        assert tokenizer.unknown not in tokenizer.tokens("Red CUP")


def test_a_text_has_a_mark_before_each_name_and_separators_behind() -> None:
    words = WordTokenizer(["red", "cup", "ball"])
    assert (words.separator, words.size) == (4, 8)
    names = [words.tokens(name) for name in ("red cup", "ball", "")]
    text = write_text(names, words)
    assert text.ids == (0, PLACEHOLDER, 5, 6, 4, PLACEHOLDER, 7, 4, PLACEHOLDER, 4, 2)
    assert text.places == (1, 5, 8)
    more = write_text(names, words, [3, 1, 2])
    assert more.ids == (0, PLACEHOLDER, 5, 6, 4, 4, 4, PLACEHOLDER, 7, 4, PLACEHOLDER, 4, 4, 2)
    assert more.places == (1, 7, 10)
    assert write_text([], words).ids == (0, 2) and write_text([], words).places == ()
    assert all(text.ids[place] == PLACEHOLDER for place in text.places)
    with pytest.raises(ValueError, match="zip"):
        write_text(names, words, [1, 1])


def test_files_that_are_no_tokenizer_are_refused(model_file: Path, tmp_path: Path) -> None:
    whole = model_file.read_bytes()
    for content in (b"", b"\xff\xd8\xff\xe0" + bytes(500), whole[: len(whole) // 2], b"hello"):
        (tmp_path / "bad.spm").write_bytes(content)
        with pytest.raises(CheckpointError, match=r"bad.spm is no readable SentencePiece model: .*; fetch it again"):
            SentencePieceTokenizer(tmp_path / "bad.spm")
    for absent in (tmp_path / "absent.spm", tmp_path):
        with pytest.raises(CheckpointError, match=f"{absent} is no readable SentencePiece model"):
            SentencePieceTokenizer(absent)
    (tmp_path / "other.spm").write_bytes(trained("▁:"))
    with pytest.raises(CheckpointError, match=r"other.spm has no piece '▁;', so it is not BEiT-3's beit3.spm"):
        SentencePieceTokenizer(tmp_path / "other.spm")


def test_without_the_package_it_says_what_to_install(model_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sentencepiece", None)
    with pytest.raises(
        CheckpointError, match=r"beit3.spm needs the package .*run: pip install 'sentencepiece>=0.2,<1'"
    ):
        SentencePieceTokenizer(model_file)
    assert WordTokenizer(["cup"]).tokens("cup") == [5]
