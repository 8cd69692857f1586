"""Reductions over groups agree with a loop over groups."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ovseg_ros.core.space.grouped import covariances, lengths_of, means, quantiles, starts_of


@settings(deadline=None, max_examples=50)
@given(
    lengths=st.lists(st.integers(1, 9), min_size=1, max_size=6),
    seed=st.integers(0, 99),
    share=st.sampled_from([0.0, 0.02, 0.5, 0.99, 1.0]),
)
def test_as_a_loop_over_groups(lengths: list[int], seed: int, share: float) -> None:
    group = np.repeat(np.arange(len(lengths)) * 3, lengths)
    points = np.random.default_rng(seed).normal(size=(len(group), 3)) * 10
    starts = starts_of(group)
    assert lengths_of(starts, len(group)).tolist() == lengths
    parts = np.split(points, starts[1:])
    np.testing.assert_allclose(means(points, starts), [part.mean(axis=0) for part in parts])
    np.testing.assert_allclose(
        covariances(points, starts), [np.cov(part.T, bias=True).reshape(3, 3) for part in parts], atol=1e-9
    )
    expected = [np.quantile(part[:, 0], share, method="lower") for part in parts]
    np.testing.assert_allclose(quantiles(points[:, 0], starts, share), expected, atol=1e-9)


@pytest.mark.parametrize("value", [0.0, -5.0, 1e4])
def test_equal_values(value: float) -> None:
    values, starts = np.full(5, value), np.array([0, 2])
    np.testing.assert_allclose(quantiles(values, starts, 0.5), [value, value])
