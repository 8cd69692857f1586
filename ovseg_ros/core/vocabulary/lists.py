"""Lists of names as people type and paste them: taken apart where there is one way to read them, else refused."""
# ruff: noqa: RUF001 - look-alikes of commas and quotes are what this file is about

import re
import reprlib
from collections.abc import Sequence

from ovseg_ros.core.errors import VocabularyError

_GROUPS_SHOWN, _WORDS_SHOWN = 3, 5
_ONE_NAME = (
    "expected one name, such as 'red cup'; give each name an entry or a line of its own (other words for one thing are "
    "its synonyms)"
)

# fmt: off
_SEPARATORS = {
    "a comma": "[,，、،､﹐‚]",
    "a semicolon": "[;；؛]",
    "a bar": r"[|｜¦•]|\s[·・]\s",
    "a tab": r"\t",
    "a slash between spaces": r"\s/|/\s|／",
    # Alone, or behind a word that is too long for an abbreviation ("cup. table", not "St. Bernard").
    "a full stop": r"(?:(?<=\s)|^)\.(?=\s|$)|(?<=[^\W\d_]{3})\.(?=\s)|。",
}
# fmt: on
_ENDS = re.compile(rf"^(?:{'|'.join(_SEPARATORS.values())}|\s)+|(?:{'|'.join(_SEPARATORS.values())}|\s)+$")
_LINE_BREAK = re.compile("\r\n|[\r\n\u2028\u2029]")
_KEY = re.compile(r"^\w+\s*[:=]\s*(?=[\[{(])")
_DATA = re.compile(r"""^[\[{]\s*(["']?\w+["']?\s*:\s*)?[\[{]""")
_NOTE = re.compile(r"^#|(?<=[^\W\d])\s*:(?=\s|$|[^\W\d])|：|=|(?<=[^\W\d])\s*#\s*(?=[^\W\d])")
"""In "#cup", "kitchen: cup", "a=b" and "cup # mine", not in "4:3 screen" and "house #5"."""
_LAST = re.compile(r"(?:and|or|&)\s+", re.IGNORECASE)
"""Before the last of several names."""
_AND_SO_ON = ("etc", "etc.", "...", "…")
_BULLET = re.compile(r"[-*+•·–—]\s+")
_NUMBER = re.compile(r"""["']?(\d+)["']?(?:\s*[:：]\s*|[.)]\s+|\s*\t\s*)(?=\D)""")
_PLAIN_NUMBER = re.compile(r"(\d+)\s+(?=\D)")
_NUMBER_INSIDE = re.compile(rf"(?:^|(?<=[\s,，;；|])){_NUMBER.pattern}")

# fmt: off
_BRACKETS = {"[": "]", "{": "}", "(": ")", "【": "】", "［": "］"}
_QUOTES = {
    '"': '"', "'": "'", "`": "`", "＂": "＂", "“": "”“", "”": "”", "„": "“”", "‘": "’‘", "’": "’", "«": "»", "»": "«",
    "「": "」", "『": "』",
}
# fmt: on
_QUOTED = re.compile("|".join(f"{opening}([^{opening}{closing}]+)[{closing}]" for opening, closing in _QUOTES.items()))

_FILE = re.compile(
    r"^(~|/|\.\.?/|[A-Za-z]:\\)|://|\.(ya?ml|json|txt|names|csv|tsv|xml|toml|cfg|ini|conf|data|labels?|lst|list|pbtxt"
    r"|md|html?|xlsx?|docx?|pdf|py|zip|gz|npy|npz|pth?|pkl|png|jpe?g|bag|db3|mcap)$",
    re.IGNORECASE,
)

_FAULTS = (
    *((re.compile(pattern), f"has {what}; {_ONE_NAME}") for what, pattern in _SEPARATORS.items()),
    (_FILE, "looks like a file; expected one name; a file is given as a text of its own"),
    (re.compile(r"[][{}【】［］]|^\([^()]*\)$|^(<[^<>]*>)+$"), f"has a bracket; {_ONE_NAME}, without brackets"),
    (re.compile(r"""^(["`＂“”„‘«»「『].|'\D)"""), f"starts with a quote; {_ONE_NAME}, without quotes"),
    (re.compile(r"^\d+(\s*[:：]\s*|[.)]\s+)(?=[^\W\d])"), "starts with a number; expected the name alone"),
    (
        re.compile(r"[^\W\d]\s*[:=：]\s*-?\d*\.?\d+$|\s\d*\.\d+$"),
        "ends with a number; expected the name alone; a threshold is a key in a YAML file",
    ),
    (re.compile(r"\\"), f"has a backslash; {_ONE_NAME}"),
    (re.compile(r"^[-+]\s?(?=[^\W\d])|^\$(?=\w)"), f"starts with a sign; {_ONE_NAME}, without it"),
    (re.compile(r"\*"), f"has an asterisk; {_ONE_NAME}, without marks"),
    (re.compile(r"[~^‖@]|%[0-9A-F]{2}"), f"has a sign that no name has (~ ^ ‖ @ %2C); {_ONE_NAME}"),
    (re.compile(r"(?<=[^\W\d_]{3})\.(?=[^\W\d_]{2})"), f"has a full stop between two words; {_ONE_NAME}"),
)


def why_no_name(text: str) -> str:
    """Why a text is a list, a file or a part of either rather than one name, and what to do; "" if it is a name."""
    for pattern, reason in _FAULTS:
        if pattern.search(text):
            return reason
    return "has a bracket without its partner; complete or remove it" if text.count("(") != text.count(")") else ""


def looks_like_file(text: str) -> bool:
    """Whether a text has the form of a path, of a file's name or of a web address."""
    return _FILE.search(text) is not None


def split_names(text: str) -> list[str]:
    """The names in a text, none of them empty; each may still be refused by `why_no_name`.

    One kind of separator takes the text apart: commas, semicolons, bars, tabs, spaced slashes or full stops, line
    breaks, numbers (1. cup 2. table). Brackets and quotes around everything or around each name, bullets, and lines
    that start with # are left out.

    Raises:
        VocabularyError: the text has two kinds of separators, lists in a list, or a name with a key or a #.
    """
    lines = [line.strip(" ") for line in _LINE_BREAK.split(text)]
    lines = [line for line in lines if line.strip() and not (len(lines) > 1 and line.lstrip().startswith("#"))]
    whole = _KEY.sub("", " ".join(lines))
    if _DATA.match(whole):
        raise VocabularyError(f"{show(text.strip())} is data; save it as a .json file and give its path")
    line = bare(whole)
    if len(lines) > 1 and line == whole and not _is_wrapped(lines):
        names = plain_lines(lines)
        if any(_NOTE.search(name) for name in names):
            raise VocabularyError(f"{show(text.strip())} is data; save it as a .yaml file and give its path")
        return names
    if numbered := _numbered(line):
        return numbered
    line = _ENDS.sub("", line)
    quoted = [match[match.lastindex or 0] for match in _QUOTED.finditer(line)]
    if len(quoted) > 1 and not _QUOTED.sub("", line).strip():
        return quoted
    found = {what: pattern for what, pattern in _SEPARATORS.items() if re.search(pattern, line)}
    if len(found) > 1:
        raise VocabularyError(
            f"{show(text.strip())} has {' and '.join(found)}; expected one of them, as in 'cup, table'"
        )
    if not found and _BULLET.match(line):
        found = {"bullets": rf"(?:^|\s){_BULLET.pattern}"}
    entries = re.split(next(iter(found.values())), line) if found else [line]
    names = plain_lines([entry.strip() for entry in entries if entry.strip()])
    for name in names:
        if note := _NOTE.search(name):
            raise VocabularyError(f"{show(name)} has a {note[0].strip()!r}; expected the name alone")
    if len(names) > 1 and names[-1].casefold() in _AND_SO_ON:
        names.pop()
    if len(names) > 1:
        names[-1] = names[-1].removeprefix(mark[0] if (mark := _LAST.match(names[-1])) else "")
    if names and re.fullmatch(r"[^.]*[^\W\d_]{3}\.", names[-1]):  # of a sentence
        names[-1] = names[-1][:-1]
    return [name for name in names if name]


def plain_lines(lines: list[str]) -> list[str]:
    """Lines with one name each, without the bullets or numbers that all of them have, and without quotes."""
    if len(lines) > 1 and re.search("[:：]$", lines[0]) and all(_BULLET.match(line) for line in lines[1:]):
        lines = lines[1:]  # a heading
    for mark in (_BULLET, _NUMBER):
        if all(mark.match(line) for line in lines):
            lines = [mark.sub("", line, count=1) for line in lines]
    numbers = [found[1] for line in lines if (found := _PLAIN_NUMBER.match(line))]
    if len(lines) > 1 and any(numbers == [str(start + i) for i in range(len(lines))] for start in (0, 1)):
        lines = [_PLAIN_NUMBER.sub("", line, count=1) for line in lines]  # "0 cup", "1 table"
    return [bare(line) for line in lines]


def _is_wrapped(lines: list[str]) -> bool:
    """Whether lines are one list that was broken behind its separators."""
    return any(
        all(re.search(f"(?:{_SEPARATORS[what]})$", line.rstrip()) for line in lines[:-1])
        for what in ("a comma", "a semicolon", "a bar")
    )


def _numbered(line: str) -> list[str]:
    """The names behind numbers that start the line and rise; none if there are no such numbers."""
    marks = list(_NUMBER_INSIDE.finditer(line))
    numbers = [int(mark[1]) for mark in marks]
    if not marks or marks[0].start() or numbers != sorted(set(numbers)):
        return []
    ends = [mark.start() for mark in marks[1:]] + [len(line)]
    names = [bare(_ENDS.sub("", line[mark.end() : end])) for mark, end in zip(marks, ends, strict=True)]
    return [name for name in names if name]


def bare(text: str) -> str:
    """A text without the brackets and quotes around all of it."""
    text = text.strip()
    for opening, closing in (*_BRACKETS.items(), *_QUOTES.items()):
        inside = text[1:-1]
        if len(text) > 1 and text[0] == opening and text[-1] in closing and not set(inside) & {opening, *closing}:
            return bare(inside)
    return text


_short_repr = reprlib.Repr()
_short_repr.maxstring = 60
_short_repr.maxother = 60
_short_repr.maxlevel = 2


def show(value: object) -> str:
    """`value` on one short line, however large, and its type unless it is text."""
    text = _short_repr.repr(value)
    return text if isinstance(value, str) else f"{text} ({type(value).__name__})"


def listed(phrases: Sequence[str]) -> str:
    """The first of them, in a sentence."""
    more = [f"{len(phrases) - _WORDS_SHOWN} more"] if len(phrases) > _WORDS_SHOWN else []
    *first, last = [*map(show, phrases[:_WORDS_SHOWN]), *more]
    return f"{', '.join(first)} and {last}" if first else last


def not_told_apart(reader: str, groups: Sequence[Sequence[str]]) -> list[str]:
    """Sentences about phrases of several categories each that `reader`, "the text encoder", takes for one."""
    shown, rest = groups[:_GROUPS_SHOWN], len(groups[_GROUPS_SHOWN:])
    remarks = [f"{reader} cannot tell apart {listed(group)}; use other words" for group in shown]
    return [*remarks, f"nor the words of {rest} more such groups"] if rest else remarks
