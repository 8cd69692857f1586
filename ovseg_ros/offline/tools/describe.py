"""`ovseg describe`: descriptions of a vocabulary's words, once and offline; the node never asks a language model."""

import sys
from collections.abc import Sequence
from pathlib import Path

from open_clip.tokenizer import SimpleTokenizer
from tqdm import tqdm

from ovseg_ros.core.config import from_mapping
from ovseg_ros.core.descriptions import Description
from ovseg_ros.core.errors import ConfigError
from ovseg_ros.core.vocabulary import UNKNOWN, CategorySpec, Vocabulary, file_of, normalize_name, parse_vocabulary
from ovseg_ros.core.vocabulary.lists import listed
from ovseg_ros.offline.data.files import check_outputs
from ovseg_ros.offline.describe_options import DescribeOptions
from ovseg_ros.offline.tools.describe_file import DescriptionsFile
from ovseg_ros.offline.tools.describe_models import Ask, ChatServer, LocalModel
from ovseg_ros.offline.tools.describe_prompt import (
    RETRY,
    AnswerFault,
    Question,
    author_of,
    is_machine,
    parse_answer,
    questions_of,
)
from ovseg_ros.offline.tools.describe_review import require_terminal, review
from ovseg_ros.offline.words import say

_NEAREST = 3
"""Neighbours in the vocabulary, before a word and behind it, that it is told apart from."""

_QUOTED = 2000
"""Characters of a refused answer that the model is shown again."""


def describe(options: DescribeOptions) -> int:
    """Describe the words, review them, or both.

    Returns:
        The exit code: 1 if some words were left, as the model's answers were refused.

    Raises:
        OvsegError: the vocabulary, the file or the model cannot be used; what was written before stays.
    """
    if options.backend is None and not options.review:
        raise ConfigError("nothing is asked for; give --backend http, transformers or none, or --review")
    if options.review:
        require_terminal()
    specs = parse_vocabulary(options.vocabulary, tell=say)
    Vocabulary.build(specs, max_categories=len(specs))
    out = options.out or _default_out(options.vocabulary)
    check_outputs(files={"--out": out})
    if options.backend is None and not out.exists():
        raise ConfigError(f"there is no {out} to review; give --out, or a --backend that describes the words first")
    file = DescriptionsFile(out)
    questions = _questions(specs, file, synonyms=options.synonyms)
    left: list[str] = []
    match options.backend:
        case "none":
            blank = [(q.word, Description()) for q in questions if normalize_name(q.word) not in file.words]
            if blank or not out.exists():
                file.put(*blank)
            print(f"{out}: {len(blank)} blank sheets, {len(questions) - len(blank)} words were there")
        case "http" | "transformers" as backend:
            left = _describe_all(questions, file, *_model(options, backend), only_missing=options.only_missing)
    if options.review:
        review(file)
    return 1 if left else 0


def _default_out(vocabulary: str) -> Path:
    file = file_of(vocabulary)
    # Never the vocabulary's own name, which may be in this folder.
    return Path(f"{file.stem}_descriptions.yaml" if file is not None else "descriptions.yaml")


def _questions(specs: Sequence[CategorySpec], file: DescriptionsFile, *, synonyms: bool) -> list[Question]:
    senses = {word: description.sense for word, description in file.words.items()}
    categories = [(spec.name, *spec.synonyms) for spec in specs if normalize_name(spec.name) != UNKNOWN]
    return questions_of(categories, senses, _NEAREST, synonyms=synonyms)


def _model(options: DescribeOptions, backend: str) -> tuple[Ask, str]:
    """What is asked, and what `by` says of it."""
    if options.model is None:
        what = "the server's name of a model" if backend == "http" else "a model's folder or its .gguf file"
        raise ConfigError(f"--backend {backend} needs --model, {what}")
    author = author_of(options.model if backend == "http" else Path(options.model).expanduser().absolute().name)
    from_mapping(Description, {"by": author}, "--model")
    if backend == "transformers":
        return LocalModel(Path(options.model).expanduser(), options.device), author
    if options.url is None:
        raise ConfigError(
            "--backend http needs --url, the server's address, such as http://localhost:8080 (llama-server) or "
            "http://localhost:11434 (Ollama)"
        )
    return ChatServer(options.url, options.model, options.timeout), author


def _describe_all(
    questions: Sequence[Question], file: DescriptionsFile, ask: Ask, author: str, *, only_missing: bool
) -> list[str]:
    """Asks for all words that want it and writes each; the words that were left."""
    tokenizer = SimpleTokenizer()
    wanted = [q for q in questions if _wants(file.words.get(normalize_name(q.word)), author, only_missing=only_missing)]
    left: dict[str, str] = {}
    for question in tqdm(wanted, desc="describe", unit="word"):
        try:
            file.put((question.word, _described(question, ask, author, tokenizer)))
        except AnswerFault as fault:
            left[question.word] = str(fault)
    kept, described = len(questions) - len(wanted), len(wanted) - len(left)
    print(f"{file.path}: {described} words described by {author}, {kept} kept as they were, {len(left)} left")
    for word, reason in left.items():
        print(f"left: {word!r}: {reason}", file=sys.stderr)
    if left:
        say(f"describe {listed(list(left))} yourself, or by another model: the same command asks for these words only")
    return list(left)


def _wants(description: Description | None, author: str, *, only_missing: bool) -> bool:
    """Whether a word is to be described: it is not, or another model or prompt did it and nobody reviewed that."""
    if description is None or description.is_blank:
        return description is None or not description.reviewed
    if only_missing or description.reviewed or description.by == author:
        return False
    return is_machine(description.by)


def _described(question: Question, ask: Ask, author: str, tokenizer: SimpleTokenizer) -> Description:
    """Asks twice at most; AnswerFault if the second answer is refused too."""
    messages = question.messages()
    answer = ""
    try:
        answer = ask(messages)
        return parse_answer(answer, question, author, tokenizer)
    except AnswerFault as fault:
        refusal = RETRY.format(reason=fault)
        said = [{"role": "assistant", "content": answer[:_QUOTED]}] if answer.strip() else []
        messages += [*said, {"role": "user", "content": refusal}]
    return parse_answer(ask(messages), question, author, tokenizer)
