"""Few words: what none of them fits has to stay without a name."""

import torch
from tiny_omtseg import tiny_omtseg

from ovseg_ros.core.vocabulary import CategorySpec, Vocabulary


def scores(unknown_likeness: float, *names: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Probabilities (Q,) of the first word, and objectness (Q,), on one picture."""
    model = tiny_omtseg(unknown_likeness=unknown_likeness)
    prompt = model.prepare(Vocabulary.build([CategorySpec(name) for name in names]))
    pixels = torch.rand(1, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        predicted = model(pixels, prompt)
    assert predicted.objectness is not None
    return predicted.class_logits[0].softmax(dim=-1)[:, 0], predicted.objectness[0]


def test_a_word_alone_names_only_what_is_like_it() -> None:
    for likeness, least, most in ((1.0, 0.0, 0.5), (-1.0, 0.5, 1.0)):
        score, objectness = scores(likeness, "red cup")
        share = score / objectness
        assert (share >= least - 1e-4).all() and (share <= most + 1e-4).all(), likeness


def test_unknown_gets_what_the_words_leave_and_takes_nothing_from_them() -> None:
    torch.testing.assert_close(scores(0.0, "red cup", "unknown"), scores(0.0, "red cup"))
