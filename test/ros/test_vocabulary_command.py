"""`ovseg vocabulary` and free-form text against the real node; what the node keeps; the newest frame re-labelled."""

from pathlib import Path

import pytest
from ros_support import Camera, Peer, Processes, TestProcess, ovseg_vocabulary, stamp_of

from ovseg_ros.core.vocabulary import CategorySpec, load_vocabulary_file
from ovseg_ros.msg import Category, PanopticSegmentation
from ovseg_ros.srv import SetVocabulary


def start(processes: Processes, peer: Peer, preset: Path, file: Path, **parameters: object) -> TestProcess:
    process = processes.start("segment_node", preset=str(preset), vocabulary_file=str(file), **parameters)
    peer.wait_until_active(process)
    return process


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("vocabulary") / "words.yaml"


@pytest.fixture(scope="module")
def node(processes: Processes, peer: Peer, tiny_preset: Path, file: Path) -> TestProcess:
    return start(processes, peer, tiny_preset, file, vocabulary=["cup", "floor"])


def names_of(peer: Peer) -> list[str]:
    return [category.name for category in peer.vocabulary().categories]


def test_the_command_shows_and_edits_the_vocabulary(node: TestProcess, peer: Peer, domain: int, file: Path) -> None:
    shown = ovseg_vocabulary(domain, "show")
    assert shown.returncode == 0, shown.stderr
    assert "version 1, 2 categories" in shown.stdout and "cup  [thing]" in shown.stdout

    added = ovseg_vocabulary(domain, "add", "red mug, wall")
    assert added.returncode == 0, added.stderr
    assert names_of(peer) == ["cup", "floor", "red mug", "wall"]
    assert "wall  [stuff]" in added.stdout

    assert ovseg_vocabulary(domain, "add", "hand", "--negative").returncode == 0
    removed = ovseg_vocabulary(domain, "remove", "Cup, floor")
    assert removed.returncode == 0 and "hand  [thing, negative]" in removed.stdout
    assert names_of(peer) == ["red mug", "wall", "hand"]

    wrong = ovseg_vocabulary(domain, "remove", "red mugs")
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert "did you mean 'red mug'" in wrong.stderr
    emptied = ovseg_vocabulary(domain, "remove", "red mug, wall")
    assert emptied.returncode == 2 and "negative" in emptied.stderr
    assert names_of(peer) == ["red mug", "wall", "hand"]
    assert load_vocabulary_file(file) == (
        CategorySpec("red mug"),
        CategorySpec("wall", is_thing=False),
        CategorySpec("hand", negative=True),
    )


def test_a_node_that_is_not_there_is_named(node: TestProcess, domain: int) -> None:
    # A node announces itself every 3 s.
    answer = ovseg_vocabulary(domain, "show", "--node", "/nobody", "--timeout", "5")
    assert answer.returncode == 2
    assert "no service /nobody/get_vocabulary within 5 s; segmentation nodes now: /ovseg" in answer.stderr


def test_free_form_text_is_guessed_and_the_guess_reported(node: TestProcess, peer: Peer) -> None:
    def ask(**fields: object) -> SetVocabulary.Response:
        return peer.call(SetVocabulary, "/ovseg/set_vocabulary", SetVocabulary.Request(**fields))

    answer = ask(text="mug, red mug, the door handle, brick wall")
    assert answer.success and len(answer.category_ids) == 4
    assert answer.message == "guessed things: mug, red mug, the door handle; stuff: brick wall"
    before = answer.version
    for text in (" , ", "mug, Mug", "a\x07b", "x" * 200, "x," * (1 << 20)):
        refused = ask(text=text)
        assert not refused.success and refused.version == before and refused.message
    both = ask(text="mug", categories=[Category(name="cup")])
    assert not both.success and "both text and 1 categories" in both.message
    assert names_of(peer) == ["mug", "red mug", "the door handle", "brick wall"]


def test_a_text_that_is_a_bundled_vocabulary_or_a_file_is_that(node: TestProcess, peer: Peer, tmp_path: Path) -> None:
    def ask(text: str) -> SetVocabulary.Response:
        return peer.call(SetVocabulary, "/ovseg/set_vocabulary", SetVocabulary.Request(text=text))

    answer = ask("street")
    assert answer.success and answer.message.startswith("read from /") and "write 'street,'" in answer.message
    assert "sidewalk" in names_of(peer)
    (tmp_path / "cats.json").write_text('[{"id": 1, "name": "cup"}, {"id": 2, "name": "table"}]')
    answer = ask(str(tmp_path / "cats.json"))
    assert answer.success and answer.message == f"read from {tmp_path / 'cats.json'}"
    assert names_of(peer) == ["cup", "table"]
    for text, reason in {
        "/etc/hostname.txt": "does not exist or is no file",
        "/etc/hostname": "has no ending; expected .yaml",  # not read
        "indoor_robots": "did you mean 'indoor_robot'?",
        "cup; red, blue": "a comma and a semicolon",
    }.items():
        refused = ask(text)
        assert not refused.success and reason in refused.message and refused.version == answer.version
    assert ask("['mug', 'wall']").success is ask("mug . wall .").success is True
    assert names_of(peer) == ["mug", "wall"]


def test_words_that_the_text_encoder_cannot_tell_apart_are_said(node: TestProcess, peer: Peer, domain: int) -> None:
    told = "the text encoder cannot tell apart '杯子' and '椅子'; use other words"
    answer = peer.call(SetVocabulary, "/ovseg/set_vocabulary", SetVocabulary.Request(text="杯子, 椅子, floor"))
    assert answer.success
    assert answer.message.startswith("guessed things: 杯子, 椅子; stuff: floor; ") and told in answer.message
    node.wait_for_output(told)
    done = ovseg_vocabulary(domain, "set", "☕; 🙂; mug")
    assert done.returncode == 0 and "cannot tell apart '☕' and '🙂'" in done.stdout


def test_a_change_relabels_the_newest_frame_at_once(node: TestProcess, peer: Peer) -> None:
    camera = Camera(peer)
    with peer.collect(PanopticSegmentation, "/ovseg/segments") as segments:
        camera.until(lambda: segments, "segments")
        peer.spin(0.5)  # frames in flight
        camera.wait_for_subscriber()
        last = camera.send()
        peer.wait_until(lambda: stamp_of(segments[-1]) == stamp_of(last), "the last frame")
        # The camera says nothing more.
        answer = peer.call(SetVocabulary, "/ovseg/set_vocabulary", SetVocabulary.Request(text="table, ball"))
        peer.wait_until(lambda: segments[-1].vocabulary_version == answer.version, "the frame under the new words")
        assert stamp_of(segments[-1]) == stamp_of(last)
        seen = [(stamp_of(message), message.vocabulary_version) for message in segments]
        assert len(seen) == len(set(seen))
    camera.close()


def test_what_was_saved_outlives_the_node(
    node: TestProcess, processes: Processes, peer: Peer, tiny_preset: Path, file: Path
) -> None:
    node.kill()
    saved = load_vocabulary_file(file)
    assert [spec.name for spec in saved] == names_after_last_change()
    start(processes, peer, tiny_preset, file, vocabulary=["cup", "floor"])
    assert names_of(peer) == names_after_last_change()


def names_after_last_change() -> list[str]:
    return ["table", "ball"]


def test_a_change_that_cannot_be_saved_holds_and_says_so(
    processes: Processes, peer: Peer, tiny_preset: Path, tmp_path: Path
) -> None:
    file = tmp_path / "words.yaml"
    file.write_text("categories: [cup]\n")
    (tmp_path / "words.orig.yaml").mkdir()
    blocked = processes.start(
        "segment_node",
        "__node:=blocked",
        preset=str(tiny_preset),
        vocabulary_file=str(file / "deeper.yaml"),
        vocabulary=["cup"],
    )
    peer.wait_until_active(blocked, "blocked")
    answer = peer.call(SetVocabulary, "/blocked/set_vocabulary", SetVocabulary.Request(text="mug"))
    assert answer.success and "could not be saved to" in answer.message
    blocked.wait_for_output("could not be saved to")
    assert file.read_text() == "categories: [cup]\n"
