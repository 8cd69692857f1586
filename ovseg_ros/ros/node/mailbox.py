"""A one-slot mailbox: whoever takes gets the newest item, older ones are dropped and counted."""

import threading
from typing import Generic, TypeVar

Item = TypeVar("Item")


class Mailbox(Generic[Item]):
    """Holds at most one item. Every method may be called from any thread.

    Args:
        condition: notified on every change; pass one to wait for several sources at once.
    """

    def __init__(self, condition: threading.Condition | None = None) -> None:
        self._condition = condition or threading.Condition()
        self._item: Item | None = None
        self._full = False
        self._closed = False
        self._dropped = 0

    def put(self, item: Item) -> bool:
        """Stores `item`; one that nobody took is replaced and counted as dropped. False, and no effect, once closed."""
        with self._condition:
            if self._closed:
                return False
            self._dropped += self._full
            self._item, self._full = item, True
            self._condition.notify_all()
            return True

    def take(self, timeout: float | None = None) -> Item | None:
        """Waits for an item and empties the slot. None after `timeout` seconds, or once closed."""
        with self._condition:
            self._condition.wait_for(lambda: self._full or self._closed, timeout)
            return self.take_nowait()

    def take_nowait(self) -> Item | None:
        """The item, emptying the slot, or None where there is none."""
        with self._condition:
            item, self._item, self._full = self._item, None, False
            return item

    def close(self) -> None:
        """Empties the slot, refuses further items and wakes every waiting `take`."""
        with self._condition:
            self._item, self._full, self._closed = None, False, True
            self._condition.notify_all()

    @property
    def full(self) -> bool:
        """Whether an item waits."""
        with self._condition:
            return self._full

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        with self._condition:
            return self._closed

    @property
    def dropped(self) -> int:
        """How many items were replaced before anybody took them."""
        with self._condition:
            return self._dropped
