"""Work in a thread that ends with it, for the sake of the thread that segments."""

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

Result = TypeVar("Result")


def in_own_thread(name: str, function: Callable[[], Result]) -> Result:
    """Calls `function` in a new thread and waits for what it returns or raises; a signal ends the wait only.

    PyTorch's OpenMP keeps a pool of threads for each thread that ever computed, until that one ends. Once the pools
    together have more threads than there are cores, waiting members of all of them go to sleep instead of spinning, and
    every small step of a network waits for them to wake: frames took 1.5 to 1.8 times as long on two cores. So in a
    process that segments on a CPU, only the thread that does may compute for longer than one call.
    """
    future: Future[Result] = Future()

    def run() -> None:
        try:
            future.set_result(function())
        except BaseException as error:  # handed to the one who waits
            future.set_exception(error)

    thread = threading.Thread(target=run, name=name, daemon=True)
    thread.start()
    result = future.result()
    thread.join()
    return result
