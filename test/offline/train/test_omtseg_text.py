"""The text of a training step: where it has no room for all separators, some are left out, and no name."""

from pathlib import Path

import pytest
import torch
from numbered_images import Striped

from ovseg_ros.core.backbones.beit3 import Beit3, Beit3Config
from ovseg_ros.core.errors import ConfigError
from ovseg_ros.core.joint.omtseg.config import AdapterConfig, DecoderConfig, OMTSegConfig
from ovseg_ros.core.joint.omtseg.network import OMTSegNetwork
from ovseg_ros.core.joint.omtseg.tokens import PLACEHOLDER, WordTokenizer
from ovseg_ros.offline.data.open import dataset_info
from ovseg_ros.offline.train import omtseg
from ovseg_ros.offline.train.augmentation import ShortSideConfig
from ovseg_ros.offline.train.data import PanopticData
from ovseg_ros.offline.train.engine import Engine, Run
from ovseg_ros.offline.train.loop_config import LoopConfig

NAMES = [category.name for category in dataset_info("cityscapes_panoptic").categories()]
TOKENIZER = WordTokenizer(sorted({word for name in NAMES for word in name.split()}))
SHORTEST = 2 + sum(2 + len(name.split()) for name in NAMES)

ROOM = SHORTEST + len(NAMES)  # half of the texts are longer


def task_with_room(room: int, monkeypatch: pytest.MonkeyPatch, folder: Path) -> omtseg.OMTSegTask:
    monkeypatch.setattr(omtseg, "open_data", lambda *_: Striped(4))
    config = OMTSegConfig(
        Beit3Config((32, 32), width=32, layers=4, heads=2, feed_forward_width=8, words=TOKENIZER.size, text_length=200),
        AdapterConfig(prior_width=4, heads=4),
        DecoderConfig(
            32, heads=4, pixel_layers=1, pixel_feed_forward_width=8, queries=2, layers=1, feed_forward_width=8
        ),
        trained_words=room,
    )
    loop, views = LoopConfig(steps=40, batch_size=1, learning_rate=1e-3), ShortSideConfig((32, 32), (32, 48))
    training = omtseg.OMTSegTraining("mine", PanopticData(workers=1), views, loop)
    run = Run(None, folder, Engine("cpu", "no"))
    return omtseg.OMTSegTask(training, OMTSegNetwork(config, Beit3(config.encoder)), TOKENIZER, run)


def test_separators_give_way_and_names_do_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    free, tight = (task_with_room(room, monkeypatch, tmp_path) for room in (200, ROOM))
    try:
        lengths = set()
        for step in range(40):
            (ids, places), (all_ids, _) = tight.text(step), free.text(step)
            lengths.add(len(ids))
            assert len(ids) <= ROOM and (len(ids) == len(all_ids)) == (len(all_ids) <= ROOM)
            assert torch.equal(ids, tight.text(step)[0])
            assert (ids[places] == PLACEHOLDER).all() and len(set(places.tolist())) == len(NAMES)
            for name, place in zip(NAMES, places.tolist(), strict=True):
                tokens = TOKENIZER.tokens(name)
                assert ids[place + 1 : place + 1 + len(tokens)].tolist() == tokens
                assert ids[place + 1 + len(tokens)] == TOKENIZER.separator
            without = [text[text != TOKENIZER.separator].tolist() for text in (ids, all_ids)]
            assert without[0] == without[1]  # the same names in the same order
        assert max(lengths) == ROOM > min(lengths)
        task_with_room(SHORTEST, monkeypatch, tmp_path).stream.close()
    finally:
        free.stream.close()
        tight.stream.close()


def test_names_that_have_no_room_at_all_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=rf"19 names make up to {SHORTEST} tokens, .* preset mine is {SHORTEST - 1};"):
        task_with_room(SHORTEST - 1, monkeypatch, tmp_path)
