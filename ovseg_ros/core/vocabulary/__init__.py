"""The words: what is asked for, with ids and colours; reading, saving and editing them."""

from ovseg_ros.core.vocabulary.files import (
    find_vocabulary,
    initial_specs,
    load_vocabulary_file,
    parse_vocabulary,
    save_vocabulary_file,
    saving_path,
)
from ovseg_ros.core.vocabulary.ids import MONO8_NO_CATEGORY, Category, Vocabulary, color_of_name
from ovseg_ros.core.vocabulary.words import (
    MAX_CATEGORY_ID,
    UNKNOWN,
    CategorySpec,
    guess_is_thing,
    normalize_name,
    parse_names,
    with_added,
    without,
)

__all__ = [
    "MAX_CATEGORY_ID",
    "MONO8_NO_CATEGORY",
    "UNKNOWN",
    "Category",
    "CategorySpec",
    "Vocabulary",
    "color_of_name",
    "find_vocabulary",
    "guess_is_thing",
    "initial_specs",
    "load_vocabulary_file",
    "normalize_name",
    "parse_names",
    "parse_vocabulary",
    "save_vocabulary_file",
    "saving_path",
    "with_added",
    "without",
]
