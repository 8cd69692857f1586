"""The words: what is asked for, with ids and colours; reading, saving and editing them."""

from ovseg_ros.core.vocabulary.files import (
    load_numbered_entries,
    load_vocabulary_file,
    numbered_entries,
    parse_entry,
    save_vocabulary_file,
)
from ovseg_ros.core.vocabulary.ids import MONO8_NO_CATEGORY, Category, Vocabulary, color_of_name
from ovseg_ros.core.vocabulary.lists import split_names
from ovseg_ros.core.vocabulary.sources import (
    file_of,
    find_vocabulary,
    initial_specs,
    parse_vocabulary,
    saving_path,
)
from ovseg_ros.core.vocabulary.words import (
    MAX_CATEGORY_ID,
    MAX_NAME_LENGTH,
    UNKNOWN,
    CategorySpec,
    as_read,
    check_name,
    guess_is_thing,
    normalize_name,
    parse_names,
    with_added,
    without,
)

__all__ = [
    "MAX_CATEGORY_ID",
    "MAX_NAME_LENGTH",
    "MONO8_NO_CATEGORY",
    "UNKNOWN",
    "Category",
    "CategorySpec",
    "Vocabulary",
    "as_read",
    "check_name",
    "color_of_name",
    "file_of",
    "find_vocabulary",
    "guess_is_thing",
    "initial_specs",
    "load_numbered_entries",
    "load_vocabulary_file",
    "normalize_name",
    "numbered_entries",
    "parse_entry",
    "parse_names",
    "parse_vocabulary",
    "save_vocabulary_file",
    "saving_path",
    "split_names",
    "with_added",
    "without",
]
