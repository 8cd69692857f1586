"""Frames that are on the way to whoever answers them. No ROS in here."""


class Unanswered:
    """The stamps of frames that wait for their answer. Before the first answer ever, nobody is waited for.

    Args:
        patience: seconds without a frame sent or an answer after which what is on the way is given up, and nobody is
            waited for again until the next answer. That no first answer comes for so long is told once, too.
    """

    def __init__(self, patience: float) -> None:
        self._patience = patience
        self._stamps: list[int] = []  # in the order of time
        self._is_answered = False
        self._unheard, self._is_told = 0, False  # frames before the first answer ever
        self._last_event = 0.0

    def __len__(self) -> int:
        return len(self._stamps)

    def sent(self, stamp: int, now: float) -> None:
        """A frame goes out; `now` in seconds of a steady clock, here as below."""
        if self._is_answered:
            self._stamps.append(stamp)
            self._last_event = now
        elif not self._is_told:
            self._last_event = self._last_event if self._unheard else now
            self._unheard += 1

    def answered(self, stamp: int, now: float) -> None:
        """An answer came. Answers come in the order of their frames, so none will come for those before."""
        self._stamps = [other for other in self._stamps if other > stamp]
        self._is_answered, self._last_event, self._unheard = True, now, 0

    def give_up(self, now: float) -> int:
        """Forgets what is on the way, or went out in vain, once patience is over; how many frames that were, else 0."""
        given_up = len(self._stamps) or self._unheard
        if not given_up or now - self._last_event <= self._patience:
            return 0
        self._stamps, self._is_answered, self._unheard, self._is_told = [], False, 0, True
        return given_up
