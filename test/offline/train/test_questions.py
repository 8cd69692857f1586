"""What PMP's training asks for: how many words, under which names, and what answers them."""

from collections import Counter

import numpy as np
import pytest

from ovseg_ros.offline.data.types import DatasetCategory
from ovseg_ros.offline.train.questions import (
    AskableWord,
    Question,
    QuestionConfig,
    Questions,
    about_categories,
    about_tabletop,
)
from ovseg_ros.sim import categories

FEW = QuestionConfig(whole=0.0)


def dataset_categories(count: int) -> list[DatasetCategory]:
    return [DatasetCategory(k, k, f"word {k}", (f"other {k}", f"third {k}"), is_thing=True) for k in range(count)]


def draws(questions: Questions, segments: list[tuple[int, str]], count: int = 400) -> list[Question]:
    return [questions.draw(segments, np.random.default_rng([0, number])) for number in range(count)]


def named(question: Question) -> dict[str, list[tuple[int, ...]]]:
    """The masks that answer each phrase."""
    found: dict[str, list[tuple[int, ...]]] = {phrase: [] for phrase in question.phrases}
    for word, segments in question.answers:
        found[question.phrases[word]].append(segments)
    return found


def test_few_words_are_as_often_few_as_many() -> None:
    """Log-uniform from 1 to all: a quarter each in 1 to 2, 3 to 7, 8 to 22 and 23 to 64 words of 64."""
    sizes = [len(question.phrases) for question in draws(about_categories(dataset_categories(64), FEW), [], 2000)]
    assert min(sizes) == 1 and max(sizes) == 64
    shares, _ = np.histogram(sizes, [1, 2.83, 8, 22.6, 65])
    assert (np.abs(shares / 2000 - 0.25) < 0.05).all(), shares


def test_a_question_is_about_something_in_the_image_and_about_nothing_that_it_does_not_name() -> None:
    segments = [(7, "word 3"), (9, "word 3"), (4, "word 60")]
    shown = {"word 3": [(7,), (9,)], "word 60": [(4,)]}
    asked = draws(about_categories(dataset_categories(64), FEW), segments)
    for question in asked:
        assert len(set(question.phrases)) == len(question.phrases)
        found = named(question)
        assert any(found.values())
        assert all(masks == shown.get(phrase, []) for phrase, masks in found.items())
    assert any(set(named(question)) & set(shown) == {"word 60"} for question in asked)  # others are nothing to find


def test_without_any_segment_it_names_words_all_the_same() -> None:
    for question in draws(about_categories(dataset_categories(5), FEW), []):
        assert 1 <= len(question.phrases) <= 5 and question.answers == ()


def test_one_category_is_asked_for_alone() -> None:
    for config in (FEW, QuestionConfig(whole=1.0)):
        for question in draws(about_categories(dataset_categories(1), config), [(3, "word 0")], 20):
            assert question == Question(("word 0",), ((0, (3,)),))


def test_half_of_the_questions_name_everything_by_default() -> None:
    sizes = Counter(len(q.phrases) for q in draws(about_categories(dataset_categories(900), QuestionConfig()), []))
    assert sizes[900] / 400 == pytest.approx(0.5, abs=0.06)


def test_a_question_is_a_function_of_what_draws_it() -> None:
    questions, segments = about_tabletop(QuestionConfig(0.3, 0.5, 0.5)), [(1, "white cube"), (2, "mat")]
    one, again = draws(questions, segments), draws(questions, segments)
    assert one == again and len(set(one)) > 300


def test_words_go_by_other_names_as_often_as_asked() -> None:
    for share in (0.0, 0.3, 1.0):
        asked = draws(about_categories(dataset_categories(9), QuestionConfig(1.0, synonyms=share)), [], 200)
        names = Counter(phrase.split()[0] for question in asked for phrase in question.phrases)
        assert names["word"] / 1800 == pytest.approx(1 - share, abs=0.04)
        assert names["other"] == pytest.approx(names["third"], abs=120)


def everything_askable(config: QuestionConfig) -> list[AskableWord]:
    questions = about_tabletop(config)
    return [word for words in (questions.whole, *questions._few, *questions._groups) for word in words]


def test_the_tabletop_never_asks_for_what_training_must_not_see() -> None:
    """No unseen category, no synonym that is held out, in any phrase or meaning."""
    words = everything_askable(QuestionConfig())
    phrases = {phrase for word in words for phrase in word.phrases}
    held_out = {word.held_out for word in categories.WORDS.values()}
    unseen = {
        categories.pair_name(first, second)
        for color, shape in map(categories.split_pair, categories.UNSEEN)
        for first in categories.WORDS[color].all_names
        for second in categories.WORDS[shape].all_names
    }
    plurals = {f"{name}s" for name in unseen | held_out}
    for word in words:
        assert word.categories and word.categories <= categories.SEEN
    assert not phrases & (unseen | held_out | plurals | categories.UNSEEN_SHAPES)
    assert not [phrase for phrase in phrases if phrase.endswith(tuple(f" {word}" for word in held_out))]


SCENE = [(1, "white cube"), (2, "white cube"), (3, "white egg"), (4, "green cube"), (5, "table")]


@pytest.mark.parametrize(
    ("phrase", "masks"),
    [
        ("white cube", [(1,), (2,)]),
        ("cube", [(1,), (2,), (4,)]),
        ("white thing", [(1,), (2,), (3,)]),
        ("white cubes", [(1, 2)]),
        ("cubes", [(1, 2, 4)]),
        ("white things", [(1, 2, 3)]),
        ("green cubes", [(4,)]),
        ("red things", []),
        ("table", [(5,)]),
    ],
)
def test_singular_means_each_and_plural_all_as_one(phrase: str, masks: list[tuple[int, ...]]) -> None:
    questions = about_tabletop(QuestionConfig())
    [word] = {word for word in everything_askable(QuestionConfig()) if word.phrases[0] == phrase}
    assert named(questions.ask([word], SCENE))[phrase] == masks


def test_groups_are_asked_for_by_their_share_and_by_all_their_names() -> None:
    def groups(share: float) -> list[str]:
        asked = draws(about_tabletop(QuestionConfig(0.0, share, 0.7)), SCENE)
        return [phrase for question in asked for phrase in question.phrases if phrase.endswith("s")]

    plural = groups(1.0)
    assert {"the", "all"} < {phrase.split()[0] for phrase in plural}
    assert {"things", "objects", "cubes"} < {phrase.split()[-1] for phrase in plural}
    assert not [phrase for phrase in groups(0.0) if phrase.startswith(("the ", "all "))]


def test_the_whole_names_every_seen_category_once_and_each_object_by_itself() -> None:
    questions = about_tabletop(QuestionConfig())
    assert sorted(word.phrases[0] for word in questions.whole) == sorted(categories.SEEN)
    answers = questions.ask(questions.whole, SCENE).answers
    assert sorted(segments for _, segments in answers) == [(1,), (2,), (3,), (4,), (5,)]


def test_no_phrase_means_each_here_and_all_as_one_there() -> None:
    """Captions call one banana "bananas", too."""
    words = everything_askable(QuestionConfig())
    each, groups = ({p for word in words if word.is_group is as_one for p in word.phrases} for as_one in (False, True))
    assert "ripe banana" in each and "bananas" in groups
    assert not each & groups


def test_several_objects_are_asked_for_more_often_where_a_word_means_them() -> None:
    segments = [(1, "word 3"), (2, "word 3"), *((index, f"word {index}") for index in range(10, 30))]
    often = draws(about_categories(dataset_categories(64), QuestionConfig(0.0, several=1.0)), segments)
    assert all("word 3" in question.phrases for question in often)
    seldom = draws(about_categories(dataset_categories(64), FEW), segments)
    assert not all("word 3" in question.phrases for question in seldom)
    alone = draws(about_categories(dataset_categories(64), QuestionConfig(0.0, several=1.0)), segments[2:])
    assert all(question.answers for question in alone)
