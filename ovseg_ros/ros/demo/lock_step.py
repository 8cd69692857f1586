"""Frames that are on the way to whoever answers them. No ROS in here."""


class Unanswered:
    """The stamps of frames that wait for their answer. Before the first answer ever, nobody is waited for.

    Args:
        patience: seconds without a frame sent or an answer after which what is on the way is given up, and nobody is
            waited for again until the next answer.
    """

    def __init__(self, patience: float) -> None:
        self._patience = patience
        self._stamps: list[int] = []  # in the order of time
        self._is_answered = False
        self._last_event = 0.0

    def __len__(self) -> int:
        return len(self._stamps)

    def sent(self, stamp: int, now: float) -> None:
        """A frame goes out; `now` in seconds of a steady clock, here as below."""
        if self._is_answered:
            self._stamps.append(stamp)
            self._last_event = now

    def answered(self, stamp: int, now: float) -> None:
        """An answer came. Answers come in the order of their frames, so none will come for those before."""
        self._stamps = [other for other in self._stamps if other > stamp]
        self._is_answered, self._last_event = True, now

    def give_up(self, now: float) -> int:
        """Forgets what is on the way once patience is over; how many frames that were, else 0."""
        if not self._stamps or now - self._last_event <= self._patience:
            return 0
        given_up = len(self._stamps)
        self._stamps, self._is_answered = [], False
        return given_up
