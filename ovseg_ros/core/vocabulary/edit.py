"""Edits of a vocabulary: entries added, replaced and removed by name."""

import difflib
from collections.abc import Iterable, Sequence

from ovseg_ros.core.errors import VocabularyError
from ovseg_ros.core.vocabulary import CategorySpec, normalize_name


def with_added(specs: Sequence[CategorySpec], added: Sequence[CategorySpec]) -> tuple[CategorySpec, ...]:
    """`specs` with `added` at the end; an entry of a name that is there already takes its place."""
    entries = {normalize_name(spec.name): spec for spec in specs}
    entries.update({normalize_name(spec.name): spec for spec in added})
    return tuple(entries.values())


def without(specs: Sequence[CategorySpec], names: Iterable[str]) -> tuple[CategorySpec, ...]:
    """`specs` without the entries of these names.

    Raises:
        VocabularyError: a name is not there, with the nearest that is.
    """
    entries = {normalize_name(spec.name): spec for spec in specs}
    for name in names:
        if entries.pop(normalize_name(name), None) is None:
            near = difflib.get_close_matches(normalize_name(name)[:100], entries, n=1)
            hint = f"did you mean {entries[near[0]].name!r}?" if near else "see `ovseg vocabulary show`"
            raise VocabularyError(f"{name[:100]!r} is not in the vocabulary; {hint}")
    return tuple(entries.values())
