"""`ovseg describe` from the command line: a server that fails in every way, a local model, blank sheets, a person."""

import json
import os
import signal
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml
from open_clip.tokenizer import SimpleTokenizer

from ovseg_ros.core.descriptions import parse_descriptions
from ovseg_ros.offline.cli.main import main
from ovseg_ros.offline.tools import describe, describe_models, describe_review
from ovseg_ros.offline.tools.describe_models import ChatServer
from ovseg_ros.offline.tools.describe_prompt import PROMPT_HASH, AnswerFault, questions_of

TOKENIZER = SimpleTokenizer()
GOOD = {"color": ["white or glazed"], "shape": ["short cylinder"], "texture": ["smooth ceramic", "matte."]}
Reply = tuple[int, dict[str, str], bytes]


def completion(content: Any) -> Reply:
    return 200, {}, json.dumps({"choices": [{"message": {"role": "assistant", "content": content}}]}).encode()


class FakeServer:
    """Answers with what it is told to, in turns; then well. Records what it was asked."""

    def __init__(self) -> None:
        self.replies: list[Reply] = []
        self.asked: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.before: Callable[[], None] = lambda: None
        fake = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                fake.asked.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                fake.headers.append({"path": self.path, **dict(self.headers)})
                fake.before()
                status, headers, body = fake.replies.pop(0) if fake.replies else completion(json.dumps(GOOD))
                self.send_response(status)
                for name, value in {"Content-Length": str(len(body)), **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def words(self) -> list[str]:
        return [
            body["messages"][0]["content"].partition("How does a typical ")[2].partition(" look")[0]
            for body in self.asked
        ]


@pytest.fixture(autouse=True)
def _one_tokenizer(monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes most of a second to make."""
    monkeypatch.setattr(describe, "SimpleTokenizer", lambda: TOKENIZER)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeServer]:
    for name in ("OVSEG_API_KEY", "OPENAI_API_KEY", "http_proxy", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)
    fake = FakeServer()
    yield fake
    fake.close()


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out.yaml"


def ask(words: str, server: FakeServer, out: Path, *more: str) -> int:
    options = ["--backend", "http", "--url", server.url, "--model", "toy", "--out", str(out), *more]
    return main(["describe", words, *options])


def content(out: Path) -> dict[str, Any]:
    parse_descriptions(out.read_bytes(), str(out))  # as a preset reads it
    words: dict[str, Any] = yaml.safe_load(out.read_text(encoding="utf-8"))["words"]
    return words


BY = f"toy@{PROMPT_HASH}"
TOLD = {**GOOD, "texture": ["smooth ceramic", "matte"], "by": BY, "reviewed": False}


def test_words_are_asked_for_once_with_their_neighbours_and_a_stopped_run_goes_on(
    server: FakeServer, out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    vocabulary = tmp_path / "words.yaml"
    vocabulary.write_text("[cup, {name: red_ball, synonyms: [sphere]}, table, unknown]")
    out.write_text(
        "format: 1\nwords:\n  table: {sense: furniture}\n"
        "  old: {color: [grey], by: Ann, reviewed: true}\n  'no': {shape: [round]}\n"
    )
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    server.before = lambda: None if len(server.asked) < 3 else (_ for _ in ()).throw(ConnectionError)
    monkeypatch.setattr(describe_models, "_TRIES", 1)
    assert ask(str(vocabulary), server, out) == 2  # the server dies at the third word
    assert list(content(out)) == ["table", "old", "no", "cup", "red ball"]
    assert content(out)["cup"] == TOLD and content(out)["red ball"] == TOLD
    assert "does not answer" in capsys.readouterr().err

    server.before = lambda: None
    assert ask(str(vocabulary), server, out) == 0
    assert server.words() == ["cup", "red ball", "table", "table"]
    found = content(out)
    assert found["table"] == {"sense": "furniture", **TOLD} and found["old"]["by"] == "Ann" and found["no"]["shape"]
    assert "1 words described by" in capsys.readouterr().out and list(found)[:3] == ["table", "old", "no"]
    first, second, table = (server.asked[place]["messages"][0]["content"] for place in (0, 1, 3))
    assert "It is in a list beside: red_ball, table." in first
    assert "Other words for it: sphere. It is in a list beside: cup, table." in second
    assert "It is meant in this sense: furniture." in table and "unknown" not in table
    assert server.asked[0]["temperature"] == 0 and server.asked[0]["model"] == "toy"
    assert server.asked[0]["response_format"]["json_schema"]["schema"]["required"] == ["color", "shape", "texture"]
    assert server.headers[0]["path"] == "/v1/chat/completions" and server.headers[0]["Authorization"] == "Bearer secret"

    before = out.read_bytes()
    assert ask(str(vocabulary), server, out) == 0 and len(server.asked) == 4 and out.read_bytes() == before
    assert ask(str(vocabulary), server, out, "--synonyms") == 0 and server.words()[4:] == ["sphere"]


def test_what_a_person_wrote_or_reviewed_stays_and_other_models_are_replaced_unless_only_missing(
    server: FakeServer, out: Path
) -> None:
    sheets = (
        "format: 1\nwords:\n  a: {color: [red], by: old@01234567, reviewed: true}\n"
        "  b: {color: [red], by: old@01234567}\n  c: {color: [red], by: Ann}\n  d: {}\n  e: {reviewed: true}\n"
    )
    out.write_text(sheets)
    assert ask("a1, b, c, d, e", server, out, "--only-missing") == 0 and server.words() == ["a1", "d"]
    out.write_text(sheets)
    assert ask("a, b, c, d, e", server, out) == 0 and server.words()[2:] == ["b", "d"]
    found = content(out)
    assert [found[word]["by"] for word in "abcde"] == ["old@01234567", BY, "Ann", BY, ""]


def test_what_a_person_reviews_while_words_are_asked_for_stays(server: FakeServer, out: Path) -> None:
    reviewed = (
        "format: 1\nwords:\n  cup: {color: [blue], by: toy, reviewed: true}\n  jar: {shape: [tall], reviewed: true}\n"
    )
    server.before = lambda: None if len(server.asked) != 3 else (out.write_text(reviewed), None)[1]
    assert ask("cup, plate, jar, mug", server, out) == 0 and server.words() == ["cup", "plate", "jar", "mug"]
    assert list(found := content(out)) == ["cup", "jar", "mug"] and found["mug"] == TOLD
    assert found["cup"]["color"] == ["blue"] and found["jar"]["shape"] == ["tall"]


def test_a_busy_or_failing_server_is_asked_again_as_it_wants(
    server: FakeServer, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []
    monkeypatch.setattr(describe, "ChatServer", lambda *given: ChatServer(*given, wait=waits.append))
    date = {"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}
    server.replies = [
        *((429, {"Retry-After": "7"}, b""), (503, {}, b"busy"), (500, date, b"")),
        *((429, {"Retry-After": "86400"}, b""), completion(json.dumps(GOOD))),
    ]
    assert ask("cup", server, out) == 0
    assert waits == [7.0, 2.0, 0.0, 60.0] and content(out)["cup"] == TOLD


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        (
            (401, {}, b'{"error": "bad key\n secret"}'),
            'status 401: {"error": "bad key ***"}; put the server\'s key into',
        ),
        ((404, {}, b"no such model"), "status 404: no such model; correct --url or --model"),
        ((302, {"Location": "http://o/secret"}, b""), "status 302: nothing; give the address 'http://o/***' as --url"),
        ((500, {"Retry-After": "0"}, b"x" * 5000), f"status 500: {'x' * 200}; see the server's log"),
        (
            (429, {"Retry-After": "0"}, b"quota"),
            "status 429: quota; wait, and run the same command again, which goes on",
        ),
        ((400, {}, b"too long"), "status 400: too long; see what the server takes"),
    ],
)
def test_a_server_that_refuses_ends_the_run_with_its_words(
    server: FakeServer,
    out: Path,
    reply: Reply,
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("OVSEG_API_KEY", "secret")
    monkeypatch.setattr(describe, "ChatServer", lambda *given: ChatServer(*given, wait=lambda _: None))
    server.replies = [completion(json.dumps(GOOD)), *[reply] * 10]
    assert ask("cup, mug", server, out) == 2
    told = capsys.readouterr().err
    assert message in told and f"{server.url}/v1/chat/completions" in told and "secret" not in told
    assert list(content(out)) == ["cup"]


def test_a_key_that_a_server_sends_back_is_neither_printed_nor_told_to_the_model(
    server: FakeServer, out: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OVSEG_API_KEY", "secret")
    server.replies = [(200, {}, b'{"Authorization": "Bearer secret"}'), completion('{"color": "Bearer secret"}')]
    assert ask("cup", server, out) == 1
    told = capsys.readouterr()
    assert "color is 'Bearer ***'" in told.err
    assert "secret" not in told.out + told.err + json.dumps(server.asked)


def test_a_server_without_schemas_is_asked_without(server: FakeServer, out: Path) -> None:
    server.replies = [(400, {}, b"unknown field response_format"), completion("```json\n" + json.dumps(GOOD) + "\n```")]
    assert ask("cup, mug", server, out) == 0
    assert ["response_format" in body for body in server.asked] == [True, False, False]
    assert content(out)["cup"] == TOLD


def changed(**lists: Any) -> str:
    return json.dumps({**GOOD, **lists})


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (completion("Sure! It is round."), "'Sure! It is round.' has no JSON object"),
        (completion('{"color": ["red"'), "is not JSON"),
        (completion("[" * 10_000), "has no JSON object"),
        (completion('{"a":' * 3_500), "is not JSON"),
        (completion("x" * 30_000), "it has 30000 characters, at most 20000 are read"),
        (completion(""), "'' has no JSON object"),
        (completion(None), "has the content None (NoneType), expected text"),
        (completion([{"type": "text"}]), "expected text"),
        (completion("{}"), "color is None (NoneType), expected a list of 1 to 4 phrases"),
        (completion(changed(color="red")), "color is 'red', expected a list"),
        (completion(changed(shape=[1])), "shape is [1] (list), expected a list"),
        (completion(changed(shape=[])), "shape has 0 phrases, expected 1 to 4"),
        (completion(changed(shape=["a"] * 5)), "shape has 5 phrases, expected 1 to 4"),
        (completion(changed(texture=["a b c d e f g h i"])), "texture[0] 'a b c d e f g h i' has 9 words; expected at"),
        (completion(changed(texture=["soft, warm"])), "has the character ',' (U+002C)"),
        (completion(changed(texture=["\u202esoft"])), "(U+202E)"),
        (completion(changed(color=["not red"])), "color[0] 'not red' says by 'not' what is missing"),
        (completion(changed(shape=["round", "isn't flat"])), 'shape[1] "isn\'t flat" says by "isn\'t"'),
        (completion(changed(shape=["like two traffic lights"])), "names 'traffic light', another thing of the list"),
        (completion(changed(shape=["like a Plate"])), "names 'plate', another thing of the list"),
        (completion(changed(shape=["qxzqxzqxzqxzqxzqxzqxzqxz " * 4])), "tokens, at most 77 are read; use shorter"),
        ((200, {}, b"<html>hello</html>"), "the server's answer '<html>hello</html>' is no chat completion"),
        ((200, {}, b'{"choices": []}'), "is no chat completion"),
        ((200, {"Content-Length": "5000"}, b"{"), "the server's answer '{' is no chat completion"),
        ((200, {}, b"\xff\xfe"), "is no chat completion"),
        ((200, {}, b"x" * 10_000_000), "the answer is larger than 1048576 bytes"),
    ],
)
def test_nonsense_is_asked_about_once_more_and_then_left(
    server: FakeServer, out: Path, reply: Reply, reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    server.replies = [reply, reply, reply]
    assert ask("cup, plate, traffic_light", server, out) == 1
    told = capsys.readouterr()
    assert "left: 'cup': " in told.err and reason in told.err and "describe 'cup' yourself" in told.err
    assert "2 words described by" in told.out and "1 left" in told.out
    assert list(content(out)) == ["plate", "traffic light"]
    assert server.words()[:2] == ["cup", "cup"]
    *_, retry = server.asked[1]["messages"]
    assert retry["role"] == "user" and retry["content"].startswith("That answer was refused: ")
    server.replies = []
    assert ask("cup, plate, traffic_light", server, out) == 0 and server.words()[-1] == "cup"


def test_looks_and_parts_of_the_own_name_are_no_other_things(server: FakeServer, out: Path) -> None:
    server.replies = [
        completion("<think>{}</think>Here: " + changed(color=["orange"], shape=["a cup with a tall lid"]))
    ]
    assert ask("coffee cup, cup, orange", server, out) == 0
    assert content(out)["coffee cup"]["shape"] == ["a cup with a tall lid"]


def test_a_name_with_a_hyphen_is_another_thing_with_or_without_it(server: FakeServer, out: Path) -> None:
    server.replies = [completion(changed(texture=[f"rough as a {name}"])) for name in ("wall-brick", "wall brick")]
    assert ask("cup, wall-brick", server, out) == 1 and list(content(out)) == ["wall-brick"]
    first, second = questions_of([["cup"], ["wall-brick"]], {}, 1, synonyms=False)
    assert first.listed is second.listed  # not a set for each of thousands of words


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_run_that_is_stopped_keeps_every_word_that_was_told(
    server: FakeServer, out: Path, number: signal.Signals, code: int
) -> None:
    server.before = lambda: os.kill(os.getpid(), number) if len(server.asked) == 3 else None
    try:
        assert ask("cup, mug, jar", server, out) == code
    except SystemExit as end:
        assert end.code == code
    assert list(content(out)) == ["cup", "mug"] and [path.name for path in out.parent.iterdir()] == [out.name]
    server.before = lambda: None
    assert ask("cup, mug, jar", server, out) == 0 and server.words()[3:] == ["jar"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "nothing is asked for; give --backend http, transformers or none, or --review"),
        (["--backend", "http", "--url", "http://a"], "--backend http needs --model, the server's name of a model"),
        (["--backend", "http", "--model", "m"], "--backend http needs --url, the server's address"),
        (["--backend", "http", "--model", "m", "--url", "file:///etc"], "--url 'file:///etc' is no address"),
        (["--backend", "http", "--model", "m", "--url", "http://"], "--url 'http://' is no address"),
        (["--backend", "http", "--model", "m", "--url", "http://a:b"], "--url 'http://a:b' is no address"),
        (["--backend", "http", "--model", "m", "--url", "http://u:p@a"], "--url has a user's name or password in it"),
        (["--backend", "http", "--model", "a\nb", "--url", "http://a"], "--model: by is 'a\\nb@"),
        (["--backend", "http", "--device", "cpu"], "--device would change nothing"),
        (["--backend", "transformers", "--url", "http://a"], "--url would change nothing"),
        (["--backend", "none", "--model", "m"], "--model would change nothing"),
        (
            ["--backend", "transformers", "--model", "nowhere"],
            "--model nowhere is not there; expected a model's folder",
        ),
        (["--backend", "transformers", "--model", "no.gguf"], "--model no.gguf is not there"),
        (["--review"], "--review asks a person, but this is no terminal"),
        (["--backend", "none", "--out", "/proc/x.yaml"], "--out /proc/x.yaml cannot be written"),
    ],
)
def test_what_cannot_be_done_is_said_before_anything_is_asked(
    options: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["describe", "cup", *options]) == 2
    assert message in " ".join(capsys.readouterr().err.split("\n"))
    assert list(tmp_path.iterdir()) == []


def test_blank_sheets_are_added_to_what_is_there_and_another_file_is_not_replaced(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words, sheets = tmp_path / "mine.yaml", tmp_path / "mine_descriptions.yaml"
    words.write_text("[cup, 'no', Jar]")
    assert main(["describe", "mine", "--backend", "none"]) == 0
    blank = {"sense": "", "color": [], "shape": [], "texture": [], "by": "", "reviewed": False}
    assert content(sheets) == {"cup": blank, "no": blank, "jar": blank}
    sheets.write_text(sheets.read_text().replace("color: []", "color: [red]", 1))
    words.write_text("[cup, plate]")
    assert main(["describe", "mine", "--backend", "none"]) == 0
    found = content(sheets)
    assert found["cup"]["color"] == ["red"] and [found[word] for word in ("no", "jar", "plate")] == [blank] * 3
    assert "1 blank sheets, 1 words were there" in capsys.readouterr().out
    before = words.read_bytes()
    assert main(["describe", "mine", "--backend", "none", "--out", str(words)]) == 2
    assert "it would be replaced by --out" in capsys.readouterr().err and words.read_bytes() == before
    assert main(["describe", "mine", "--backend", "none", "--out", "/dev/null"]) == 2
    assert "--out /dev/null is no regular file; expected one" in capsys.readouterr().err


def test_a_person_reviews_on_the_terminal(
    out: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out.write_text(
        "format: 1\nwords:\n  a: {color: [red], by: toy@01234567}\n  b: {}\n  c: {shape: [flat], by: Ann}\n"
        "  d: {color: [x], reviewed: true}\n  e: {color: [x]}\n  f: {color: [x]}\n"
    )
    answers = iter(
        [*("what", "yes"), *("y", "e", "grey; blue", "", "", "e", "grey, dark blue", "", " soft ", "y"), "s", "q"]
    )
    monkeypatch.setattr(describe, "require_terminal", lambda: None)
    assert main(["describe", "a", "--review", "--out", f"{out}x"]) == 2  # nothing is there
    monkeypatch.setattr(describe_review, "input", lambda prompt: next(answers), raising=False)
    assert main(["describe", "a", "--review", "--out", str(out)]) == 0
    told, found = capsys.readouterr().out, content(out)
    assert "it is blank; edit it first" in told and "refused: color[0] 'grey; blue' has the character ';'" in told
    assert "2 of 5 words reviewed" in told and [found[word]["reviewed"] for word in "abcdef"] == [
        *(True, True, False, True, False, False)
    ]
    assert found["b"]["color"] == ["grey", "dark blue"] and found["b"]["texture"] == ["soft"]
    assert found["a"]["by"] == "toy@01234567" and found["b"]["by"] == "edited by hand"


def test_an_address_is_taken_in_any_usual_form(server: FakeServer) -> None:
    for ending in ("", "/", "/v1", "/v1/", "/v1/chat/completions"):
        assert json.loads(ChatServer(server.url + ending, "m", 10)([{"role": "user", "content": "?"}])) == GOOD
    assert {headers["path"] for headers in server.headers} == {"/v1/chat/completions"}
    with pytest.raises(AnswerFault):
        server.replies = [(200, {}, b"{}")]
        ChatServer(server.url, "m", 10)([])
