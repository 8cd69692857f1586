"""`ovseg download` against a hub of our own: fetched, verified, resumed, offline afterwards."""

import hashlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import yaml
from huggingface_hub.utils import reset_sessions

from ovseg_ros.core.errors import CheckpointError
from ovseg_ros.core.presets import load_preset
from ovseg_ros.core.weights.weight_file import WeightFile
from ovseg_ros.offline.cli.main import main
from ovseg_ros.offline.options import DownloadOptions
from ovseg_ros.offline.tools.download import download, verify

LARGE = bytes(range(256)) * 400
SMALL = b'{"model_type": "eomt"}'
FILES = {
    "/owner/model/resolve/main/weights.bin": LARGE,
    "/owner/model/resolve/main/config.json": SMALL,
    "/spaces/owner/model/resolve/main/large.pth": LARGE,
}


class Hub(ThreadingHTTPServer):
    """Serves `FILES` as the hub does. `cut` bytes in, a large download breaks off, once."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.cut: int | None = None
        self.spoil = False
        self.ranges: list[str | None] = []

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    server: Hub

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def log_message(self, *arguments: object) -> None:
        pass

    def _answer(self, *, body: bool) -> None:
        content = FILES.get(self.path)
        if content is None:
            self.send_response(404)
            known = self.path.startswith("/owner/model/")
            self.send_header("X-Error-Code", "EntryNotFound" if known else "RepoNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        large = content is LARGE
        git = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
        start = 0
        if body and large:
            self.server.ranges.append(self.headers.get("Range"))
            start = int((self.headers.get("Range") or "bytes=0-").removeprefix("bytes=").partition("-")[0])
        self.send_response(206 if start else 200)
        self.send_header("X-Repo-Commit", "c0ffee" * 6 + "c0ff")
        self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest() if large else git}"')
        self.send_header("Content-Length", str(len(content) - start))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.end_headers()
        if body:
            sent = content[start:]
            if large and self.server.spoil:
                sent, self.server.spoil = b"x" * len(sent), False
            if large and self.server.cut is not None:
                sent, self.server.cut = sent[: self.server.cut], None
            self.wfile.write(sent)


@pytest.fixture
def hub() -> Iterator[Hub]:
    with Hub() as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def preset(tmp_path: Path) -> str:
    weights = {"repo": "owner/model", "bytes": 100, "licence": "MIT"}
    values = {
        "description": "For tests.",
        "model": {
            "kind": "two_stage",
            "input_size": [64, 64],
            "proposer": {"kind": "published_eomt", "checkpoint": "owner/model"},
            "clip": {"kind": "open_clip", "architecture": "ViT-B-16", "checkpoint": "owner/model"},
            "classifier": {"kind": "pooled"},
        },
        "weights": [
            {**weights, "file": "weights.safetensors", "alternatives": ["weights.bin"]},
            {**weights, "file": "config.json"},
        ],
    }
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(values))
    return str(path)


def fetch(preset: str, *, cache: Path, check: bool = False, endpoint: str | None = None) -> int:
    return download(DownloadOptions(preset=preset, cache=cache, check=check), endpoint=endpoint)


def cached(cache: Path, name: str) -> Path:
    return next((cache / "models--owner--model" / "snapshots").rglob(name))


def test_everything_is_fetched_once_and_verified_offline(
    hub: Hub, preset: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cache = tmp_path / "hub"
    assert fetch(preset, cache=cache, endpoint=hub.address) == 0
    assert cached(cache, "weights.bin").read_bytes() == LARGE
    assert cached(cache, "config.json").read_bytes() == SMALL
    assert f"export HF_HUB_CACHE={cache}" in capsys.readouterr().out
    # Nobody is asked again.
    for check in (False, True):
        assert fetch(preset, cache=cache, check=check, endpoint="http://127.0.0.1:9") == 0
    assert len(hub.ranges) == 1


def test_a_file_of_a_space_is_fetched_and_verified(hub: Hub, preset: str, tmp_path: Path) -> None:
    cache, values = tmp_path / "hub", yaml.safe_load(Path(preset).read_text())
    values["weights"] = [{"repo": "spaces/owner/model", "file": "large.pth", "bytes": 100, "licence": "MIT"}]
    Path(preset).write_text(yaml.safe_dump(values))
    assert fetch(preset, cache=cache, endpoint=hub.address) == 0
    (path,) = (cache / "spaces--owner--model" / "snapshots").rglob("large.pth")
    assert path.read_bytes() == LARGE
    assert fetch(preset, cache=cache, check=True) == 0
    path.resolve().write_bytes(LARGE[:-1])
    assert fetch(preset, cache=cache, check=True) == 1


def test_a_download_that_broke_off_goes_on_where_it_stopped(
    hub: Hub, preset: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 10_000)  # what is written at a time
    hub.cut = 70_000
    with pytest.raises(CheckpointError, match="interrupted.*run the command again"):
        fetch(preset, cache=tmp_path / "hub", endpoint=hub.address)
    assert fetch(preset, cache=tmp_path / "hub", check=True) == 1
    assert fetch(preset, cache=tmp_path / "hub", endpoint=hub.address) == 0
    assert hub.ranges == [None, "bytes=70000-"]
    assert cached(tmp_path / "hub", "weights.bin").read_bytes() == LARGE


def test_a_damaged_file_is_found_and_fetched_again(
    hub: Hub, preset: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cache = tmp_path / "hub"
    hub.spoil = True
    assert fetch(preset, cache=cache, endpoint=hub.address) == 0  # noticed and repaired at once
    assert cached(cache, "weights.bin").read_bytes() == LARGE
    for name in ("weights.bin", "config.json"):
        content = bytearray(cached(cache, name).read_bytes())
        content[len(content) // 2] ^= 1
        cached(cache, name).resolve().write_bytes(content)
    assert fetch(preset, cache=cache, check=True) == 1
    assert capsys.readouterr().out.count("damaged (checksum") == 2
    assert fetch(preset, cache=cache, endpoint=hub.address) == 0
    assert cached(cache, "weights.bin").read_bytes() == LARGE


def test_the_presets_own_checksum_counts(tmp_path: Path) -> None:
    path = tmp_path / "weights.bin"
    path.write_bytes(LARGE)
    right = hashlib.sha256(LARGE).hexdigest()
    weights = {"repo": "a/b", "file": "weights.bin", "bytes": 1, "licence": "MIT"}
    assert verify(path, WeightFile(**weights, sha256=right)) is None
    assert "damaged" in str(verify(path, WeightFile(**weights, sha256="0" * 64)))
    # It belongs to the preferred file, not to the same weights under another name.
    other = {**weights, "file": "weights.st", "alternatives": ("weights.bin",)}
    assert verify(path, WeightFile(**other, sha256="0" * 64)) is None
    path.write_bytes(b"")
    assert verify(path, WeightFile(**weights)) == "empty"


@pytest.fixture
def offline_mode(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """HF_HUB_OFFLINE=1, which the hub's sessions remember."""
    reset_sessions()
    with monkeypatch.context() as patch:
        patch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        yield
    reset_sessions()


def test_without_a_network_there_is_one_sentence(preset: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # the hub's library tries again and again
    with pytest.raises(
        CheckpointError, match=r"cannot fetch weights.safetensors of owner/model: the hub .* be reached"
    ):
        fetch(preset, cache=tmp_path / "hub", endpoint="http://127.0.0.1:9")


def test_in_offline_mode_there_is_one_line(
    preset: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], offline_mode: None
) -> None:
    assert main(["download", preset, "--cache", str(tmp_path / "hub")]) == 2
    error = capsys.readouterr().err
    assert error.startswith("ovseg: error: cannot fetch weights.safetensors of owner/model")
    assert error.count("\n") == 1


def test_what_the_hub_does_not_have_is_named(hub: Hub, preset: str, tmp_path: Path) -> None:
    text = Path(preset).read_text()
    Path(preset).write_text(text.replace("weights.bin", "other.bin"))
    with pytest.raises(CheckpointError, match="owner/model has none of weights.safetensors, other.bin"):
        fetch(preset, cache=tmp_path / "hub", endpoint=hub.address)
    Path(preset).write_text(text.replace("repo: owner/model", "repo: nobody/model"))
    with pytest.raises(CheckpointError, match="no such public repository"):
        fetch(preset, cache=tmp_path / "hub", endpoint=hub.address)


def test_a_full_disk_is_noticed_before_the_download(preset: str, tmp_path: Path) -> None:
    Path(preset).write_text(Path(preset).read_text().replace("bytes: 100", f"bytes: {10**18}"))
    with pytest.raises(CheckpointError, match="GB are free; make room"):
        fetch(preset, cache=tmp_path / "hub")


def test_a_bundled_preset_has_nothing_to_fetch(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["download", "tabletop"]) == 0
    assert "nothing to fetch" in capsys.readouterr().out
    assert main(["download", "tabletpo"]) == 2


def test_what_a_training_has_yet_to_write_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    assert main(["download", "omtseg_b", "--check"]) == 1
    assert "2 of 2 files are not usable" in capsys.readouterr().out
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    for weights in load_preset("omtseg_b").weights:
        (folder / weights.name).write_bytes(b"an error page")
    assert main(["download", "omtseg_b", "--check"]) == 1
    assert "damaged or something else (13 bytes, expected about 1356293)" in capsys.readouterr().out
    for weights in load_preset("omtseg_b").weights:
        with (folder / weights.name).open("r+b") as file:
            file.truncate(weights.bytes)  # takes no room on the disk
    assert main(["download", "omtseg_b", "--check"]) == 0
    told = capsys.readouterr().out
    assert "omtseg_b.safetensors is nowhere to be fetched; a training writes it: " in told
    assert told.endswith("train omtseg_b_coco\n")
