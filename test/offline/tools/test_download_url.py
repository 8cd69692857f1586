"""`ovseg download` of files that are not on the hub, against a server of our own: whole and intact, or not there."""

import hashlib
import shutil
import threading
import urllib.request
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from ovseg_ros.core.errors import CheckpointError
from ovseg_ros.offline.cli.main import main
from ovseg_ros.offline.options import DownloadOptions
from ovseg_ros.offline.tools.download import download

CONTENT = bytes(range(256)) * 1000
SHA256 = hashlib.sha256(CONTENT).hexdigest()
PAGE = "https://releases.example/download/v1"
URL = f"{PAGE}/tiny.pth"

Answer = Callable[[BaseHTTPRequestHandler], None]


def whole(handler: BaseHTTPRequestHandler) -> None:
    send(handler, {"Content-Length": str(len(CONTENT))}, CONTENT)


def without_size(handler: BaseHTTPRequestHandler) -> None:
    send(handler, {}, CONTENT)


def cut_off(handler: BaseHTTPRequestHandler) -> None:
    send(handler, {"Content-Length": str(len(CONTENT))}, CONTENT[:1000])


def cut_off_chunks(handler: BaseHTTPRequestHandler) -> None:
    send(handler, {"Transfer-Encoding": "chunked"}, b"10\r\n" + CONTENT[:8])


def spoiled(handler: BaseHTTPRequestHandler) -> None:
    send(handler, {"Content-Length": str(len(CONTENT))}, b"x" * len(CONTENT))


def empty(handler: BaseHTTPRequestHandler) -> None:
    send(handler, {"Content-Length": "0"}, b"")


def absent(handler: BaseHTTPRequestHandler) -> None:
    handler.send_error(404)


def silent(handler: BaseHTTPRequestHandler) -> None:
    handler.close_connection = True


def send(handler: BaseHTTPRequestHandler, headers: dict[str, str], body: bytes) -> None:
    handler.send_response(200)
    for name, value in headers.items():
        handler.send_header(name, value)
    handler.end_headers()
    handler.wfile.write(body)


class Releases(ThreadingHTTPServer):
    """Serves every path, and every tunnel of a proxy, by `answer`."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answer: Answer = whole
        self.asked: list[str] = []

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    server: Releases
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.close_connection = True
        self.server.asked.append(self.path)
        self.server.answer(self)

    do_CONNECT = do_GET

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Releases]:
    """What `PAGE` leads to."""
    with Releases() as releases:
        thread = threading.Thread(target=releases.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        lead_to(releases.address, monkeypatch)
        yield releases
        releases.shutdown()
        thread.join()


def lead_to(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def opened(url: str, timeout: float) -> Any:
        return urllib.request.urlopen(url.replace(PAGE, address), timeout=timeout)

    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr("ovseg_ros.offline.tools.download.urlopen", opened)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where torch.hub keeps files, by TORCH_HOME."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    return tmp_path / "torch" / "hub" / "checkpoints"


def write_preset(tmp_path: Path, **weights: object) -> str:
    values = {
        "description": "For tests.",
        "model": {
            "kind": "two_stage",
            "input_size": [64, 64],
            "proposer": {"kind": "published_eomt", "checkpoint": "tiny.pth"},
            "clip": {"kind": "open_clip", "architecture": "ViT-B-16", "checkpoint": "tiny.pth"},
            "classifier": {"kind": "pooled"},
        },
        "weights": [{"url": URL, "bytes": 100, "licence": "MIT", **weights}],
    }
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(values))
    return str(path)


def fetch(preset: str, *, cache: Path | None = None, check: bool = False) -> int:
    return download(DownloadOptions(preset=preset, cache=cache, check=check))


@pytest.mark.parametrize("answer", [whole, without_size])
def test_a_file_is_fetched_once_to_where_pytorch_keeps_it(
    server: Releases, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], answer: Answer
) -> None:
    server.answer = answer
    preset = write_preset(tmp_path, sha256=SHA256)
    assert fetch(preset, check=True) == 1
    assert f"missing: {URL} (MIT)" in capsys.readouterr().out
    assert fetch(preset) == 0
    told = capsys.readouterr()
    assert f"ok: {URL} (0.3 MB, MIT)" in told.out and f"complete in {folder}" in told.out and "export" not in told.out
    assert "tiny.pth" in told.err and "256k" in told.err  # the progress
    assert [path.name for path in folder.iterdir()] == ["tiny.pth"]
    assert (folder / "tiny.pth").read_bytes() == CONTENT
    assert fetch(preset) == fetch(preset, check=True) == 0
    assert server.asked == ["/tiny.pth"]


def test_another_cache_is_told_to_other_commands(
    server: Releases, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    preset, cache = write_preset(tmp_path), tmp_path / "stick"
    assert fetch(preset, cache=cache) == 0
    assert (cache / "hub" / "checkpoints" / "tiny.pth").read_bytes() == CONTENT and not folder.exists()
    assert capsys.readouterr().out.endswith(f"export TORCH_HOME={cache}\n")
    monkeypatch.setenv("TORCH_HOME", str(cache))
    assert fetch(preset, check=True) == 0


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (cut_off, "what arrived is cut off at 1000 of 256000 bytes"),
        (cut_off_chunks, r"IncompleteRead\("),
        (spoiled, r"what arrived is damaged \(checksum [0-9a-f]{12}\.\.\., expected "),
        (empty, "what arrived is empty"),
        (absent, "HTTP Error 404: Not Found"),
        (silent, "Remote end closed connection without response"),
        (None, r"\[Errno \d+\] Connection refused"),
    ],
)
def test_what_does_not_arrive_whole_leaves_nothing_and_the_next_try_counts(
    server: Releases,
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    answer: Answer | None,
    reason: str,
) -> None:
    preset = write_preset(tmp_path, sha256=SHA256)
    if answer is None:
        lead_to("http://127.0.0.1:9", monkeypatch)
    else:
        server.answer = answer
    remedy = rf"; .* run the command again, .* copy it to {folder / 'tiny.pth'}$"
    with pytest.raises(CheckpointError, match=f"^cannot fetch {URL}: {reason}.*{remedy}") as caught:
        fetch(preset)
    assert "\n" not in str(caught.value)
    assert list(folder.iterdir()) == []
    lead_to(server.address, monkeypatch)
    server.answer = whole
    assert fetch(preset) == 0


def test_without_a_checksum_a_file_is_cut_off_all_the_same(server: Releases, folder: Path, tmp_path: Path) -> None:
    server.answer = cut_off
    with pytest.raises(CheckpointError, match="cut off at 1000 of 256000 bytes"):
        fetch(write_preset(tmp_path))
    assert list(folder.iterdir()) == []


def test_ctrl_c_leaves_nothing(server: Releases, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(source: Any, target: Any, length: int) -> None:
        target.write(source.read(length))
        assert len(list(folder.iterdir())) == 1
        raise KeyboardInterrupt

    monkeypatch.setattr(shutil, "copyfileobj", interrupted)
    with pytest.raises(KeyboardInterrupt):
        fetch(write_preset(tmp_path))
    assert list(folder.iterdir()) == []


def test_two_at_once_do_not_disturb_each_other(server: Releases, folder: Path, tmp_path: Path) -> None:
    both = threading.Barrier(2)

    def together(handler: BaseHTTPRequestHandler) -> None:
        both.wait(30)
        whole(handler)

    server.answer = together
    preset, codes = write_preset(tmp_path, sha256=SHA256), []
    threads = [threading.Thread(target=lambda: codes.append(fetch(preset))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert codes == [0, 0] and len(server.asked) == 2
    assert [path.name for path in folder.iterdir()] == ["tiny.pth"]


def test_a_damaged_file_is_fetched_again_and_what_it_linked_to_is_kept(
    server: Releases, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    preset, elsewhere = write_preset(tmp_path, sha256=SHA256), tmp_path / "elsewhere.pth"
    elsewhere.write_bytes(CONTENT[:-1])
    folder.mkdir(parents=True)
    (folder / "tiny.pth").symlink_to(elsewhere)
    assert fetch(preset, check=True) == 1
    assert f"damaged (checksum {hashlib.sha256(CONTENT[:-1]).hexdigest()[:12]}" in capsys.readouterr().out
    assert fetch(preset) == 0
    assert (folder / "tiny.pth").read_bytes() == CONTENT and elsewhere.read_bytes() == CONTENT[:-1]


def test_the_proxy_of_the_environment_is_asked(
    server: Releases, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    server.answer = absent
    monkeypatch.setattr("urllib.request._opener", None)  # it keeps the environment of its first call
    monkeypatch.setattr("ovseg_ros.offline.tools.download.urlopen", urllib.request.urlopen)
    monkeypatch.setenv("https_proxy", server.address)
    assert main(["download", write_preset(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert (
        error.startswith(f"ovseg: error: cannot fetch {URL}: Tunnel connection failed: 404") and error.count("\n") == 1
    )
    assert server.asked == ["releases.example:443"]


def test_room_is_looked_for_before_the_download_hub_and_others_together(
    server: Releases, folder: Path, tmp_path: Path
) -> None:
    most = int(shutil.disk_usage(tmp_path).free * 0.6)
    preset = Path(write_preset(tmp_path, bytes=most))
    values = yaml.safe_load(preset.read_text())
    values["weights"].append({"repo": "owner/model", "file": "weights.bin", "bytes": most, "licence": "MIT"})
    preset.write_text(yaml.safe_dump(values))
    with pytest.raises(CheckpointError, match="GB are free; make room"):
        fetch(str(preset), cache=tmp_path / "stick")
    assert server.asked == []


def test_a_place_that_takes_no_files_is_named_before_the_download(
    server: Releases, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "torch").touch()
    assert main(["download", write_preset(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert error.startswith(
        f"ovseg: error: TORCH_HOME {folder} cannot be made: {tmp_path / 'torch'} is a file; expected a"
    )
    assert server.asked == []
