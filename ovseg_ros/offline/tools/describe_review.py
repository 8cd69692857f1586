"""A person reads descriptions, one word at a time, on a terminal."""

import sys
from dataclasses import replace

from ovseg_ros.core.config import from_mapping
from ovseg_ros.core.descriptions import Description
from ovseg_ros.core.errors import ConfigError
from ovseg_ros.offline.tools.describe_file import DescriptionsFile

_QUESTION = "[y]es, [e]dit, [s]kip or [q]uit? "


def require_terminal() -> None:
    """ConfigError if nobody could read and answer."""
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise ConfigError(
            "--review asks a person, but this is no terminal; leave it out, or set `reviewed` in the file"
        )


def review(file: DescriptionsFile) -> None:
    """Goes through the words that nobody reviewed; each answer is written at once. The end of the input quits."""
    words = [word for word, description in file.words.items() if not description.reviewed]
    read = 0
    try:
        for place, word in enumerate(words, start=1):
            description = file.words.get(word)
            if description is None or description.reviewed:  # somebody else changed the file meanwhile
                continue
            print(f"\n{place} of {len(words)}: {word}")
            answer = _answer(description)
            if answer is not None:
                file.put((word, answer))
                read += 1
    except EOFError:
        print()
    print(f"{file.path}: {read} of {len(words)} words reviewed")


def _answer(description: Description) -> Description | None:
    """What a word's description becomes; None if it is skipped. EOFError to quit."""
    while True:
        _show(description)
        match input(_QUESTION).strip().lower():
            case "y" | "yes" if description.is_blank:
                print("it is blank; edit it first")
            case "y" | "yes":
                return replace(description, reviewed=True)
            case "e" | "edit":
                description = _edited(description)
            case "s" | "skip":
                return None
            case "q" | "quit":
                raise EOFError


def _show(description: Description) -> None:
    for name, value in (("sense", description.sense), *description.attributes.items(), ("by", description.by)):
        print(f"  {name + ':':9}{value if isinstance(value, str) else ', '.join(value)}")


def _edited(description: Description) -> Description:
    """Asks for each line anew; an empty answer keeps it, a hyphen empties it."""
    print("  new phrases, with commas between them; Enter keeps what is there, - removes it")
    lists = description.attributes
    for name, phrases in description.attributes.items():
        if text := input(f"  {name} [{', '.join(phrases)}]: ").strip():
            lists[name] = () if text == "-" else tuple(part.strip() for part in text.split(",") if part.strip())
    if lists == description.attributes:
        return description
    by = description.by if description.by.endswith("edited by hand") else f"{description.by}, edited by hand"
    try:
        edited = {
            "sense": description.sense,
            "by": by.lstrip(", "),
            **{str(name): some for name, some in lists.items()},
        }
        return from_mapping(Description, edited, "refused")
    except ConfigError as error:
        print(f"  {error}")
        return description
