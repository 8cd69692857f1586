"""Sets of prompts that the literature averages a word's embedding over."""

from collections.abc import Sequence

from open_clip import OPENAI_IMAGENET_TEMPLATES

VILD_TEMPLATES = (
    "a photo of a {}.",
    "This is a photo of a {}",
    "There is a {} in the scene",
    "There is the {} in the scene",
    "a photo of a {} in the scene",
    "a photo of a small {}.",
    "a photo of a medium {}.",
    "a photo of a large {}.",
    "This is a photo of a small {}.",
    "This is a photo of a medium {}.",
    "This is a photo of a large {}.",
    "There is a small {} in the scene.",
    "There is a medium {} in the scene.",
    "There is a large {} in the scene.",
)
"""The 14 of ViLD (Gu et al., ICLR 2022), as FC-CLIP uses them."""

IMAGENET_TEMPLATES = tuple(template("{}") for template in OPENAI_IMAGENET_TEMPLATES)
"""The 80 that CLIP was evaluated on ImageNet with (Radford et al., 2021)."""

_SETS = {"vild": VILD_TEMPLATES, "imagenet": IMAGENET_TEMPLATES}


def prompt_templates(templates: str | Sequence[str]) -> tuple[str, ...]:
    """A preset's templates: its own, or those that "vild" or "imagenet" means.

    Raises:
        ValueError: another name, no template, or one that has not exactly one {} and no other braces.
    """
    if not isinstance(templates, str):
        for template in templates:
            if template.count("{}") != 1 or set("{}") & set(template.replace("{}", "")):
                raise ValueError(
                    f"the template {template!r} must have {{}} once, where the word stands, and no other braces"
                )
        if not templates:
            raise ValueError('templates is empty; expected prompts such as "a photo of a {}", or leave it out')
        return tuple(templates)
    if templates not in _SETS:
        raise ValueError(
            f"templates is {templates!r}; expected {' or '.join(_SETS)}, or a list of prompts with one {{}} each"
        )
    return _SETS[templates]
