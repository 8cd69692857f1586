"""Descriptions behind the vocabulary service: a change counts at the next request, a broken file is an answer."""

from pathlib import Path
from types import SimpleNamespace

import rclpy
import torch
from rclpy.context import Context
from rclpy.node import Node

from ovseg_ros.core.descriptions import DescriptionFiles, DescriptionsConfig
from ovseg_ros.core.merge import MergeConfig
from ovseg_ros.core.model import Prompt
from ovseg_ros.core.text import TextEncoder
from ovseg_ros.core.vocabulary import CategorySpec, Vocabulary
from ovseg_ros.msg import Category
from ovseg_ros.ros.node.parameter_spec import declare
from ovseg_ros.ros.node.parameters import PARAMETERS, merge_parameters
from ovseg_ros.ros.node.vocabulary_service import VocabularyService, build_vocabulary
from ovseg_ros.srv import SetVocabulary


def test_the_same_words_are_read_anew_and_a_broken_file_leaves_everything(domain: int, tmp_path: Path) -> None:
    path, asked = tmp_path / "mine.yaml", list[str]()

    def encode(sentences: list[str]) -> torch.Tensor:
        asked.extend(sentences)
        return torch.nn.functional.normalize(torch.rand(len(sentences), 8), dim=-1)

    def prepare(vocabulary: Vocabulary) -> Prompt:
        text = encoder.encode(vocabulary)
        return Prompt(vocabulary, remarks=encoder.remarks(text), descriptions=text.descriptions)

    path.write_text("format: 1\nwords: {cup: {color: [red]}}")
    encoder = TextEncoder(encode, ["{}"], None, DescriptionFiles(DescriptionsConfig(("mine.yaml",)), [path]))
    context = Context()
    rclpy.init(context=context, domain_id=domain)
    node = Node("ovseg", context=context)
    declare(node, [*PARAMETERS, *merge_parameters(MergeConfig())])
    warnings, told = list[str](), list[str]()
    node.get_logger = lambda: SimpleNamespace(info=told.append, warning=warnings.append)  # type: ignore[method-assign]
    first = build_vocabulary(node, [CategorySpec("cup"), CategorySpec("jar")])
    service = VocabularyService(node, SimpleNamespace(prepare=prepare), first, None, warnings.append)  # type: ignore[arg-type]
    request = SetVocabulary.Request(categories=[Category(name="cup"), Category(name="jar")])
    try:
        assert asked == ["a photo of a cup, red", "jar"]
        assert told[0].startswith("vocabulary 1: 1 of 2 names and synonyms are described, by mine.yaml (SHA-256 ")

        path.write_text("format: 1\nwords: {cup: {color: [blue]}}")
        response = service.submit(request).result(timeout=60)
        assert response.success and response.version == 2 and asked[2:] == ["a photo of a cup, blue"]
        assert response.message.startswith("vocabulary 2: 1 of 2 names") and response.message == told[-1]
        assert response.message[-9:] != told[0][-9:]  # another hash

        held, count = service.current, len(told)
        path.write_text("format: 1\nwords: {cup: {color: [blue, with a handle]}, cup: {}}")
        response = service.submit(request).result(timeout=60)
        assert not response.success and response.version == 2
        assert "mine.yaml" in response.message and "key 'cup' appears twice; keep one of them" in response.message
        path.unlink()
        response = service.submit(request).result(timeout=60)
        assert not response.success and f"cannot read the descriptions {path}" in response.message
        assert service.current is held and service.message.version == 2 and len(told) == count and not warnings
    finally:
        service.close()
        node.destroy_node()
        rclpy.shutdown(context=context)
