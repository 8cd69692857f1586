"""Who is on the way, told by hand."""

from ovseg_ros.ros.demo.lock_step import Unanswered


def test_before_the_first_answer_nobody_is_waited_for() -> None:
    frames = Unanswered(5.0)
    for stamp in (1, 2, 3):
        frames.sent(stamp, 0.0)
    assert len(frames) == 0 and frames.give_up(5.0) == 0
    frames.answered(2, 1.0)
    assert frames.give_up(100.0) == 0
    frames.sent(4, 100.0)
    assert len(frames) == 1


def test_that_no_first_answer_comes_is_told_once() -> None:
    frames = Unanswered(5.0)
    for stamp in (1, 2, 3):
        frames.sent(stamp, 2.0 * stamp)
    assert frames.give_up(7.0) == 0 and frames.give_up(7.5) == 3  # since the first frame
    frames.sent(4, 8.0)
    assert len(frames) == 0 and frames.give_up(100.0) == 0


def test_an_answer_answers_the_frames_before_too() -> None:
    frames = Unanswered(5.0)
    frames.answered(0, 0.0)
    for stamp in (10, 20, 30):
        frames.sent(stamp, 0.0)
    frames.answered(5, 0.0)  # to a frame of long ago
    assert len(frames) == 3
    frames.answered(20, 0.0)  # 10 was dropped
    assert len(frames) == 1


def test_patience_begins_with_what_happened_last_and_ends_once() -> None:
    frames = Unanswered(5.0)
    frames.answered(0, 0.0)
    frames.sent(10, 1.0)
    frames.sent(20, 4.0)
    frames.answered(10, 7.0)
    assert frames.give_up(12.0) == 0 and len(frames) == 1
    frames.sent(30, 12.0)
    assert frames.give_up(17.5) == 2 and len(frames) == 0
    frames.sent(40, 18.0)  # nobody seems to be there
    assert len(frames) == 0 and frames.give_up(100.0) == 0
    frames.answered(40, 101.0)
    frames.sent(50, 101.0)
    assert len(frames) == 1
