"""Reductions over groups of points without a loop over groups or points.

Groups are runs of equal values in a sorted (P,) array; `starts` (N,) are their first positions, none is empty.
"""

import numpy as np


def starts_of(group: np.ndarray) -> np.ndarray:
    """First position of every run in a sorted (P,) array of group numbers, P >= 1."""
    return np.flatnonzero(np.concatenate([[True], group[1:] != group[:-1]]))


def lengths_of(starts: np.ndarray, size: int) -> np.ndarray:
    """Length of every group, (N,)."""
    return np.diff(np.append(starts, size))


def means(values: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """Mean of every group of `values` (P, ...): (N, ...) float64."""
    lengths = lengths_of(starts, len(values))
    totals = np.add.reduceat(values.astype(np.float64, copy=False), starts, axis=0)
    return totals / lengths.reshape(-1, *[1] * (values.ndim - 1))


def covariances(points: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """Covariance matrix of every group of points (P, D): (N, D, D)."""
    index = np.repeat(np.arange(len(starts)), lengths_of(starts, len(points)))
    centred = points - means(points, starts)[index]
    return means(centred[:, :, None] * centred[:, None, :], starts)


def quantiles(values: np.ndarray, starts: np.ndarray, share: float) -> np.ndarray:
    """The value at `share` in [0, 1] of every sorted group of finite `values` (P,), the lower of two: (N,) float64."""
    lengths = lengths_of(starts, len(values))
    index = np.repeat(np.arange(len(starts)), lengths)
    low = float(values.min())
    span = float(values.max()) - low + 1.0
    # Groups are moved apart by more than the values' range, so that one sort sorts inside every group.
    ordered = np.sort(values.astype(np.float64) - low + index * span)
    position = starts + np.floor(share * (lengths - 1)).astype(np.intp)
    return np.asarray(ordered[position] + low - np.arange(len(starts)) * span)
