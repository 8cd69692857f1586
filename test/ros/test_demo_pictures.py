"""The demonstration's pictures: what is in them, and files that others can read."""

from pathlib import Path

import numpy as np
from PIL import Image

from ovseg_ros.ros.demo.pictures import GAP, SCALE, TITLE_HEIGHT, contact_sheet, tour_pictures, write_tour
from ovseg_ros.ros.demo.scoring import DemoFrame, DemoSegments

RED, BLUE = (250, 30, 30), (30, 30, 250)


def frame(number: int) -> DemoFrame:
    """A grey picture, darker with each number, of which the right half was found."""
    image = np.full((60, 80, 3), 200 - 10 * number, np.uint8)
    ids = np.zeros((60, 80), np.uint16)
    ids[:, 40:] = 1
    part = DemoSegments(ids, {1: 5}, {1: "cup"})
    return DemoFrame(image, image, part, part, stamp=number * 250_000_000, sent=0, received=0)


def shown(picture: np.ndarray) -> tuple[int, bool]:
    """The number of the frame in a picture of the tour, and whether its segment is red rather than blue."""
    left, right = picture[-20, 20].tolist(), picture[-20, -40].tolist()
    return round((200 - left[0]) / 10), right[0] > right[2]


def test_a_tour_goes_along_the_path_once_with_the_vocabularies_by_turns(tmp_path: Path) -> None:
    frames = [frame(number) for number in range(8)]
    pictures, period = tour_pictures([("reds", frames, {5: RED}), ("blues", frames, {5: BLUE})])
    wanted = [(number, number in (0, 1, 4, 5)) for number in range(8)]
    assert [shown(picture) for picture in pictures] == wanted and period == 0.25
    titles = [picture[: TITLE_HEIGHT // 2] for picture in pictures]
    assert not np.array_equal(titles[0], titles[2])

    write_tour(tmp_path / "tour.webp", pictures, period)
    with Image.open(tmp_path / "tour.webp") as tour:
        assert (tour.format, tour.n_frames, tour.size) == ("WEBP", 8, pictures[0].shape[1::-1])
        read = []
        for number in range(8):
            tour.seek(number)
            tour.load()
            assert tour.info["duration"] == 250
            read.append(shown(np.array(tour.convert("RGB"))))
    assert read == wanted


def test_frames_that_were_missed_shorten_a_tour_and_not_its_period() -> None:
    frames = [frame(number) for number in (0, 3, 4, 5, 6)]
    pictures, period = tour_pictures([("reds", frames, {5: RED})])
    assert [shown(picture)[0] for picture in pictures] == [0, 3, 4, 5, 6] and period == 0.25


def test_a_contact_sheet_has_a_row_a_frame() -> None:
    sheet = contact_sheet([frame(0), frame(9)], "reds", {5: RED})
    assert sheet.shape == (TITLE_HEIGHT + 2 * (60 * SCALE + GAP), 3 * 80 * SCALE + 2 * GAP, 3)
    assert sheet[-GAP - 1, 0].tolist() == [110, 110, 110]
