"""A call in a thread that ends with it."""

import threading

import pytest

from ovseg_ros.core.own_thread import in_own_thread


def test_the_result_comes_back_and_the_thread_is_gone() -> None:
    name, thread = in_own_thread("short", lambda: (threading.current_thread().name, threading.current_thread()))
    assert name == "short" and thread is not threading.current_thread() and not thread.is_alive()


def test_what_is_raised_comes_back_too() -> None:
    def fail() -> None:
        raise ValueError("no such file")

    with pytest.raises(ValueError, match="no such file"):
        in_own_thread("short", fail)
