"""A node whose preset is what a training leaves, a closed set: its classes as words, and words that are no class."""

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import yaml
from ros_support import Camera, Peer, Processes, TestProcess, picture, request_of

from ovseg_ros.core.proposals.eomt.network import EoMT, EoMTConfig
from ovseg_ros.core.weights.strict import save_state_half
from ovseg_ros.msg import PanopticSegmentation
from ovseg_ros.ros.node.conversions import MESSAGES
from ovseg_ros.srv import SetVocabulary

CLASSES = ("cup", "ball", "floor")


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As a training leaves it, with random weights."""
    folder = tmp_path_factory.mktemp("run")
    torch.manual_seed(0)
    architecture = {"width": 32, "depth": 2, "heads": 2, "num_queries": 6, "num_classes": 3, "joint_blocks": 1}
    network = EoMT(EoMTConfig(image_size=(48, 64), **architecture))  # type: ignore[arg-type]
    for weights in network.parameters():
        weights.data *= 4 if weights.ndim > 1 else 1  # else all masks look alike
    save_state_half(network.state_dict(), folder / "tiny.safetensors")
    proposer = {
        "kind": "eomt",
        "checkpoint": "./tiny.safetensors",
        "architecture": {"image_size": [48, 64], **architecture},
        "classes": [{"name": name, "is_thing": name != "floor"} for name in CLASSES],
    }
    preset = {
        "description": "Untrained, for tests.",
        "model": {"kind": "closed_set", "input_size": [48, 64], "proposer": proposer},
        "merge": {"object_threshold": 0.0, "overlap_threshold": 0.0, "mask_threshold": 0.0, "min_area": 1},
    }
    (folder / "preset.yaml").write_text(yaml.safe_dump(preset))
    (folder / "vocabulary.yaml").write_text(yaml.safe_dump({"categories": proposer["classes"]}))
    return folder


@pytest.fixture(scope="module")
def node(processes: Processes, peer: Peer, run_folder: Path) -> Iterator[TestProcess]:
    process = processes.start(
        "segment_node", preset=str(run_folder), vocabulary_file=str(run_folder / "vocabulary.yaml"), cameras=["front"]
    )
    peer.wait_until_active(process)
    yield process
    assert process.interrupt(signal.SIGTERM) == 0, process.output
    assert "Traceback" not in process.output


def test_a_run_folder_is_a_preset_and_its_vocabulary_the_nodes(node: TestProcess, peer: Peer, run_folder: Path) -> None:
    known = peer.vocabulary()
    assert [category.name for category in known.categories] == list(CLASSES)
    assert [category.is_thing for category in known.categories] == [True, True, False]
    assert "never found" not in node.output
    camera = Camera(peer, "/front/image")
    with peer.collect(PanopticSegmentation, "/ovseg/front/segments") as lists:
        camera.wait_for_subscriber()
        camera.until(lambda: lists, "the frame", lambda: MESSAGES.image(picture(48, 64), "rgb8", camera.header()))
    assert lists[0].segments and {segment.label for segment in lists[0].segments} <= set(CLASSES)


def test_words_that_are_no_class_are_told_and_without_any_class_refused(
    node: TestProcess, peer: Peer, run_folder: Path
) -> None:
    own = "this preset finds its own 3 classes alone: cup, ball, floor"
    answer = peer.call(SetVocabulary, "/ovseg/set_vocabulary", request_of("penguin", "ball"))
    assert answer.success and answer.version == 2
    assert f"never found, as no class is called so: penguin; {own}" in answer.message
    node.wait_for_output("never found, as no class is called so: penguin")
    saved = (run_folder / "vocabulary.yaml").read_text()
    answer = peer.call(SetVocabulary, "/ovseg/set_vocabulary", request_of("penguin", "zebra"))
    assert not answer.success and answer.version == 2
    assert f"none of the words is a class, not penguin, zebra; {own}. Ask for some of these" in answer.message
    assert [category.name for category in peer.vocabulary().categories] == ["penguin", "ball"]
    assert (run_folder / "vocabulary.yaml").read_text() == saved
