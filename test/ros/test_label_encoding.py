"""The parameter label_image_encoding: 8 bits that stay, and 16 bits that are said, by the service in this process."""

from collections.abc import Callable, Iterator
from types import SimpleNamespace

import pytest
import rclpy
from diagnostic_msgs.msg import DiagnosticStatus
from rclpy.context import Context
from rclpy.node import Node
from rclpy.parameter import Parameter

from ovseg_ros.core.engine.options import REFERENCE
from ovseg_ros.core.errors import VocabularyError
from ovseg_ros.core.merge import MergeConfig
from ovseg_ros.core.model import Prompt
from ovseg_ros.core.vocabulary import CategorySpec, Vocabulary
from ovseg_ros.msg import Category
from ovseg_ros.ros.node.diagnostics import model_status
from ovseg_ros.ros.node.parameter_spec import declare
from ovseg_ros.ros.node.parameters import PARAMETERS, merge_parameters, validate
from ovseg_ros.ros.node.vocabulary_service import VocabularyService, build_vocabulary
from ovseg_ros.srv import SetVocabulary

SEGMENTER = SimpleNamespace(prepare=Prompt)
Start = Callable[[str, int], tuple[VocabularyService, list[str]]]


@pytest.fixture
def start(domain: int) -> Iterator[Start]:
    """Starts the service under an encoding, with so many words; also the warnings that it writes."""
    context = Context()
    rclpy.init(context=context, domain_id=domain)
    running: list[tuple[VocabularyService, Node]] = []

    def start(encoding: str, words: int) -> tuple[VocabularyService, list[str]]:
        overrides = [Parameter("label_image_encoding", value=encoding)]
        node = Node("ovseg", context=context, parameter_overrides=overrides)
        declare(node, [*PARAMETERS, *merge_parameters(MergeConfig())])
        warnings: list[str] = []
        logger = SimpleNamespace(info=lambda _: None, warning=warnings.append)
        node.get_logger = lambda: logger  # type: ignore[method-assign]
        first = build_vocabulary(node, [CategorySpec(f"word {index}") for index in range(words)])
        service = VocabularyService(node, SEGMENTER, first, None, warnings.append)  # type: ignore[arg-type]
        running.append((service, node))
        return service, warnings

    yield start
    for service, node in running:
        service.close()
        node.destroy_node()
    rclpy.shutdown(context=context)


def answer(service: VocabularyService, first: int, last: int) -> SetVocabulary.Response:
    request = SetVocabulary.Request(categories=[Category(name=f"word {index}") for index in range(first, last)])
    return service.submit(request).result(timeout=60)


def test_mono8_says_which_ids_are_given_again_and_refuses_what_does_not_fit(start: Start) -> None:
    service, warnings = start("mono8", 200)
    response = answer(service, 200, 255)
    assert (response.success, response.message, warnings) == (True, "", [])

    response = answer(service, 200, 257)
    assert response.success and list(response.category_ids) == [*range(200, 255), 0, 1]
    assert response.message == (
        "vocabulary 3: 2 ids of words that are gone were given again to stay in mono8: "
        '0 is now "word 255", was "word 0", 1 is now "word 256", was "word 1"'
    )
    assert warnings == [response.message]

    response = answer(service, 300, 500)
    assert response.success and ": 200 ids" in response.message and response.message.endswith(", ...")
    assert response.message.count(" is now ") == 50 and response.message == warnings[-1]
    assert answer(service, 200, 255).success

    before = service.message
    response = answer(service, 0, 300)
    assert (response.success, response.version, list(response.category_ids)) == (False, before.version, [])
    assert "300 categories that are published" in response.message and "remove 45 of them" in response.message
    assert service.message == before and service.warning == ""
    with pytest.raises(VocabularyError, match="256 categories that are published"):
        start("mono8", 256)


@pytest.mark.parametrize("encoding", ["auto", "16UC1"])
def test_16_bits_are_a_warning_while_they_last_unless_they_are_wanted(start: Start, encoding: str) -> None:
    service, warnings = start(encoding, 100)
    answer(service, 1000, 1004)
    assert warnings == [] and service.warning == ""
    response = answer(service, 100, 273)
    if encoding == "16UC1":
        assert (response.message, warnings, service.warning) == ("", [], "")
        return
    assert response.success and service.warning == response.message == warnings[-1]
    assert response.message.startswith(
        "vocabulary 3: its highest id is 276, and mono8 ends at 254, so ~/label_image is"
    )
    assert "label_image_encoding:=mono8" in response.message
    assert answer(service, 110, 273).message == "" and service.warning.startswith("vocabulary 4: its highest id is 276")
    answer(service, 0, 100)
    assert len(warnings) == 1 and service.warning == ""  # the ids of these still fit
    _, warnings = start("auto", 256)
    assert len(warnings) == 1 and "vocabulary 1: its highest id is 255" in warnings[0]


def test_the_warning_is_in_the_models_status() -> None:
    def status(fault: str, warning: str) -> DiagnosticStatus:
        return model_status(
            state="active",
            preset="tabletop",
            device="cpu",
            engine=REFERENCE,
            prompt=Prompt(Vocabulary.build([CategorySpec("cup")])),
            host_memory=0,
            device_memory=None,
            fault=fault,
            warning=warning,
        )

    assert (status("", "16 bits").level, status("", "16 bits").message) == (DiagnosticStatus.WARN, "active: 16 bits")
    assert status("broken", "16 bits").level == DiagnosticStatus.ERROR and status("", "").level == DiagnosticStatus.OK


def test_another_encoding_is_refused_with_those_that_there_are() -> None:
    result = validate([Parameter("label_image_encoding", value="mono16")])
    assert not result.successful
    assert result.reason == "label_image_encoding is 'mono16'; expected one of auto, mono8, 16UC1"
