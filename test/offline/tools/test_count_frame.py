"""A frame of every preset by shape: work and bytes, at a camera's aspect ratio; and nothing wide outside the islands.

The figures are pinned: whoever makes a frame dearer or cheaper has to say so here.
"""

import pytest
from float32_bytes import Float32Bytes

from ovseg_ros.core.presets import preset_names
from ovseg_ros.offline.tools.count_frame import count_frame

WORDS, SIZE = 150, (640, 480)
PINNED = {
    "cat_seg_b_semantic": (486.4, 435.9, 7582.7),
    "cat_seg_l": (2095.4, 1748.7, 17231.7),
    "eomt_b_closed": (431.1, 187.3, 3375.7),
    "eomt_b_vit_b": (655.9, 359.7, 4888.2),
    "eomt_l_closed": (1335.9, 633.4, 8521.0),
    "eomt_l_convnext": (2530.3, 1032.9, 11878.7),
    "eomt_s_closed": (135.6, 48.0, 1702.3),
    "eomt_s_convnext": (474.8, 224.4, 3160.8),
    "fisa_b": (692.8, 375.9, 5679.2),
    "fisa_l": (4106.7, 1296.0, 35891.3),
    "lmseg_b": (1035.0, 797.4, 11935.3),
    "lmseg_l": (3067.7, 1928.6, 32716.1),
    "lmseg_l_semantic": (8649.8, 1295.2, 120600.2),
    "omtseg_b": (846.6, 530.5, 13349.0),
    "omtseg_l": (2187.0, 1455.2, 25382.8),
    "pmp_eomt_l": (2532.0, 1055.0, 11936.1),
    "pmp_mask2former_b": (1626.2, 648.4, 10744.6),
    "tabletop": (17.2, 9.8, 339.5),
    "tabletop_fisa": (17.5, 10.3, 389.1),
    "tabletop_fisa_image": (11.7, 10.3, 339.0),
    "tabletop_lmseg": (20.5, 16.4, 966.7),
    "tabletop_omtseg": (9.2, 12.6, 475.6),
    "tabletop_pmp": (17.2, 12.2, 343.2),
}
"""GFLOP of a frame, megabytes of weights, megabytes of activations that are written."""


def test_every_preset_is_pinned() -> None:
    assert set(PINNED) == set(preset_names())


@pytest.mark.parametrize("preset", sorted(PINNED))
def test_work_and_bytes_of_a_frame(preset: str) -> None:
    wide = Float32Bytes()
    frame = count_frame(preset, SIZE, WORDS, wide)
    assert sum(frame["parts"].values()) >= 0.98 * frame["flops"]  # all heavy work is in the parts
    found = tuple(
        round(value, 1) for value in (frame["flops"] / 1e9, frame["weight_bytes"] / 1e6, frame["written_bytes"] / 1e6)
    )
    assert found == PINNED[preset]
    assert not wide.written, "float32 outside the islands"
