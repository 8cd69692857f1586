"""The words: what is asked for, with ids and colours; reading, saving and editing them."""

from ovseg_ros.core.vocabulary.words import (
    MAX_CATEGORY_ID,
    MAX_NAME_LENGTH,
    MAX_SYNONYMS,
    MAX_VOCABULARY_BYTES,
    UNKNOWN,
    Category,
    CategorySpec,
    Vocabulary,
    color_of_name,
    guess_is_thing,
    load_vocabulary_file,
    normalize_name,
    parse_names,
    parse_vocabulary,
)

__all__ = [
    "MAX_CATEGORY_ID",
    "MAX_NAME_LENGTH",
    "MAX_SYNONYMS",
    "MAX_VOCABULARY_BYTES",
    "UNKNOWN",
    "Category",
    "CategorySpec",
    "Vocabulary",
    "color_of_name",
    "guess_is_thing",
    "load_vocabulary_file",
    "normalize_name",
    "parse_names",
    "parse_vocabulary",
]
