"""What `ovseg describe` can be told; beside the options of the other commands, which fill a file of their own."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from ovseg_ros.offline.option import Option, number, path, switch
from ovseg_ros.offline.options import Device

BACKENDS = ("http", "transformers", "none")


@dataclass(frozen=True, kw_only=True, slots=True)
class DescribeOptions:
    """Describe the words of a vocabulary, by a language model or on blank sheets for a person.

    The file is written whole after each word, so the same command goes on where a run was stopped. What a person wrote
    or reviewed is never replaced; what another model or another prompt wrote is, unless --only-missing is given.
    """

    vocabulary: Annotated[str, Option("words to describe", metavar='FILE|"a,b,c"', by_place=True)]
    backend: Annotated[
        Literal["http", "transformers", "none"] | None,
        Option(
            "http: a server with OpenAI's chat completions, such as llama-server, Ollama or vLLM; its key, if it wants "
            "one, in OVSEG_API_KEY or OPENAI_API_KEY; transformers: a model on this machine; none: blank sheets",
            choices=BACKENDS,
        ),
    ] = None
    out: Annotated[
        Path | None,
        Option("the descriptions file (default: VOCABULARY_descriptions.yaml in the current folder)", path, "FILE"),
    ] = None
    model: Annotated[
        str | None,
        Option("http: the server's name of a model; transformers: its folder or GGUF file", metavar="NAME|FOLDER|GGUF"),
    ] = None
    url: Annotated[str | None, Option("http: address of the server, such as http://localhost:8080")] = None
    only_missing: Annotated[bool, switch("leave all words alone that are described, whoever did it")] = False
    synonyms: Annotated[bool, switch("describe synonyms too, each as a word of its own")] = False
    review: Annotated[bool, switch("then read what nobody reviewed, on this terminal: yes, edit, skip or quit")] = False
    device: Device = "auto"
    timeout: Annotated[
        float, Option("http: longest wait for an answer, seconds (default: 120)", number(0, 86400, above=True), "S")
    ] = 120.0
