"""`ovseg vocabulary`: show or change the vocabulary of a running node."""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from ovseg_ros.core.errors import ConfigError
from ovseg_ros.offline.option import number

if TYPE_CHECKING:
    from ovseg_ros.core.vocabulary import CategorySpec
    from ovseg_ros.ros.node.vocabulary_client import VocabularyClient


_MAX_SECONDS = 86400.0


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Describe the subcommand."""
    parser = commands.add_parser("vocabulary", help="show or change the vocabulary of a running node")
    actions = parser.add_subparsers(dest="action", metavar="show|set|add|remove", required=True)
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--node", default="/ovseg", help="name of the segmentation node (default: /ovseg)")
    common.add_argument(
        "--timeout",
        type=number(0, _MAX_SECONDS, above=True),
        default=30.0,
        metavar="S",
        help="longest wait, seconds (default: 30)",
    )
    kind = argparse.ArgumentParser(add_help=False)
    kind.add_argument("words", metavar='FILE|"a,b,c"', help="names, a vocabulary file, or a bundled vocabulary's name")
    kind.add_argument("--negative", action="store_true", help="they compete with the others but are not published")
    group = kind.add_mutually_exclusive_group()
    group.add_argument("--thing", action="store_true", help="countable objects (default: guessed from each name)")
    group.add_argument("--stuff", action="store_true", help="surfaces and the like, joined into one segment")
    actions.add_parser("show", parents=[common], help="print the vocabulary in force")
    actions.add_parser("set", parents=[common, kind], help="replace the whole vocabulary")
    actions.add_parser("add", parents=[common, kind], help="add names, or replace the entries that they have")
    removal = actions.add_parser("remove", parents=[common], help="remove names")
    removal.add_argument("words", metavar='FILE|"a,b,c"', help="names to remove, or a file that holds them")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Do it and return the exit code."""
    from ovseg_ros.core.vocabulary import with_added, without

    wanted = _wanted(options) if options.action in ("set", "add") else ()  # refused before anything is asked
    unwanted = [spec.name for spec in _given(options.words)] if options.action == "remove" else ()
    try:
        from ovseg_ros.ros.node.vocabulary_client import connect
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"ovseg vocabulary asks a running node by ROS, but Python finds no {error.name!r}; build the package with "
            "colcon, source install/setup.bash and run it again"
        ) from error
    with connect(options.node, options.timeout) as client:
        if options.action == "set":
            _apply(client, wanted)
        elif options.action == "add":
            _apply(client, with_added(client.specs(), wanted))
        elif options.action == "remove":
            _apply(client, without(client.specs(), unwanted))
        _show(client)
    return 0


def _wanted(options: argparse.Namespace) -> "tuple[CategorySpec, ...]":
    specs = _given(options.words)
    if options.thing or options.stuff:
        specs = tuple(replace(spec, is_thing=options.thing) for spec in specs)
    return tuple(replace(spec, negative=True) for spec in specs) if options.negative else specs


def _given(words: str) -> "tuple[CategorySpec, ...]":
    from ovseg_ros.core.vocabulary import parse_vocabulary

    return parse_vocabulary(words, tell=lambda remark: print(f"ovseg: note: {remark}", file=sys.stderr))


def _apply(client: "VocabularyClient", specs: "Sequence[CategorySpec]") -> None:
    message = client.set(specs).message
    if message:
        print(message)


def _show(client: "VocabularyClient") -> None:
    vocabulary = client.get()
    print(f"version {vocabulary.version}, {len(vocabulary.categories)} categories")
    for category in vocabulary.categories:
        notes = ["thing" if category.is_thing else "stuff"]
        notes += ["negative"] if category.negative else []
        notes += [f"threshold {round(category.threshold, 6):g}"] if category.threshold else []
        synonyms = f" ({', '.join(category.synonyms)})" if category.synonyms else ""
        print(f"{category.id:5d}  {category.name}{synonyms}  [{', '.join(notes)}]")
