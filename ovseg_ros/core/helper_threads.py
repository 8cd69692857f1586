"""The helpers of PyTorch's threads, and what they do while there is nothing to do."""

import os

_SLEEPING = {"OMP_WAIT_POLICY": "PASSIVE", "KMP_BLOCKTIME": "0"}
"""For GNU's OpenMP, which PyTorch's wheels bring, and for LLVM's and Intel's."""
_CHOICES = (*_SLEEPING, "GOMP_SPINCOUNT", "KMP_LIBRARY")


def let_helpers_sleep() -> None:
    """From now on helpers sleep between the steps of a network; by default they spin, and take the cores from others.

    For the first lines of a program: OpenMP reads this once, when PyTorch is imported. Whoever has chosen how OpenMP
    waits, by the environment, keeps that.
    """
    if not any(os.environ.get(name) for name in _CHOICES):
        os.environ.update(_SLEEPING)
