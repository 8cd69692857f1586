"""What the commands say of words on stderr."""

from types import SimpleNamespace

import pytest

from ovseg_ros.core.descriptions import ATTRIBUTES, Description, Descriptions
from ovseg_ros.core.model import Prompt
from ovseg_ros.core.vocabulary import CategorySpec, Vocabulary
from ovseg_ros.offline.words import prepared


def test_what_describes_the_words_is_said_with_its_hash_before_what_is_misread(
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = Vocabulary.build([CategorySpec("mug", ("cup",)), CategorySpec("jar")])
    described = Descriptions(
        {"mug": Description(color=("white",))}, ATTRIBUTES, with_templates=False, files=(("mine.yaml", "0123456789"),)
    )
    prompt = Prompt(words, remarks=("it cannot tell apart",), descriptions=described)
    assert prepared(SimpleNamespace(prepare=lambda vocabulary: prompt), words) is prompt  # type: ignore[arg-type]
    assert capsys.readouterr().err.splitlines() == [
        "ovseg: note: vocabulary 1: 1 of 3 names and synonyms are described, by mine.yaml (SHA-256 01234567)",
        "ovseg: note: it cannot tell apart",
    ]
