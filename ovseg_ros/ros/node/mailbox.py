"""A one-slot mailbox: whoever takes gets the newest item, older ones are dropped and counted."""

import threading
from typing import Generic, TypeVar

Item = TypeVar("Item")


class Mailbox(Generic[Item]):
    """Holds at most one item, which is not None. Every method may be called from any thread.

    Args:
        condition: notified of every item; several mailboxes may share one, to be waited for at once.
    """

    def __init__(self, condition: threading.Condition) -> None:
        self._condition = condition
        self._item: Item | None = None
        self._closed = False
        self._dropped = 0

    def put(self, item: Item) -> None:
        """Stores `item`; one that nobody took is replaced and counted as dropped. No effect once closed."""
        with self._condition:
            if not self._closed:
                self._dropped += self.full
                self._item = item
                self._condition.notify_all()

    def take(self) -> Item | None:
        """The item, emptying the slot, or None where there is none."""
        with self._condition:
            item, self._item = self._item, None
            return item

    def close(self) -> None:
        """Empties the slot and refuses further items."""
        with self._condition:
            self._item, self._closed = None, True

    @property
    def full(self) -> bool:
        """Whether an item waits."""
        with self._condition:
            return self._item is not None

    @property
    def dropped(self) -> int:
        """How many items were replaced before anybody took them."""
        with self._condition:
            return self._dropped
