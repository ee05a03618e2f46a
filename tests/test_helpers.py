"""Tests of the tests' own tools: grids, options and settings."""

import itertools
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.helpers import assert_gradients_close, each_value, pairwise

GRID = {"chunk": [1, 7, 64], "norm": ["pre", "post"], "even": [True, False]}


@pytest.mark.parametrize("bad", [1.1, np.nan])
def test_assert_names_the_worst(bad):
  """Without it a failure (or NaN) would pass, or not say where it is."""
  right = {"a": jnp.ones(2), "b": jnp.ones(2), "c": jnp.ones(2)}
  wrong = {"a": jnp.ones(2), "b": jnp.full(2, 1.05), "c": jnp.full(2, bad)}
  assert_gradients_close(right, right, 0)
  assert_gradients_close({"a": wrong["b"]}, {"a": right["b"]}, 0.0501)
  with pytest.raises(AssertionError, match="of c has .* 0.01 .2 of 3 "):
    assert_gradients_close(wrong, right, 0.01)


@pytest.mark.parametrize("axes", [GRID, {"chunk": [1, 7]}])
def test_grid_is_the_whole_product(axes):
  """Without it --full would leave out cases."""
  cases = [dict(case.values[0]) for case in pairwise(**axes)]
  product = itertools.product(*axes.values())
  assert cases == [dict(zip(axes, x, strict=True)) for x in product]


def test_tiers_of_a_grid():
  """Without it `make test` would leave values untried, `test-slow` pairs."""
  cases = pairwise(**GRID)
  marks = [[mark.name for mark in case.marks] for case in cases]
  first = [c.values[0] for c, m in zip(cases, marks, strict=True) if not m]
  by_pairs = [
    c.values[0] for c, m in zip(cases, marks, strict=True) if m != ["full"]
  ]
  for name, values in GRID.items():
    assert {case[name] for case in first} == set(values)
  for (one, xs), (other, ys) in itertools.combinations(GRID.items(), 2):
    pairs = {(case[one], case[other]) for case in by_pairs}
    assert pairs == set(itertools.product(xs, ys))
  assert len(first) == 3 < len(by_pairs) <= 7 < len(cases) == 12
  assert not any(case.marks for case in pairwise(chunk=[1, 7, 64]))
  whole = [c for c in each_value(**GRID) if not c.marks]
  assert [c.values[0] for c in whole] == first
  assert not any(m.name == "slow" for c in each_value(**GRID) for m in c.marks)


def test_cases_have_readable_names():
  """Without it a failing case would be called case17."""
  names = [case.id for case in pairwise(f=[jnp.tanh, len], chunk=[7])]
  assert names == ["f=tanh-chunk=7", "f=len-chunk=7"]


@pytest.mark.parametrize("case", pairwise(**GRID))
def test_one_case(case):
  """Stands for a test with a grid, for the test below."""
  assert case.keys() == GRID.keys()


@pytest.mark.slow
@pytest.mark.parametrize(
  "case", [1, pytest.param(2, marks=pytest.mark.full)], ids=str
)
def test_one_slow_case(case):
  """Stands for a test that takes long, for the test below."""


@pytest.mark.slow
def test_tiers_choose_the_cases():
  """Without it a tier would run nothing, or everything."""
  program = """
import sys, pytest
for options in ([], ["-m", "slow and not full"], ["-m", ""]):
  pytest.main([*sys.argv[1:], *options])
"""
  # One process, as importing JAX is most of the work.
  run = subprocess.run(
    [sys.executable, "-c", program, "--collect-only", "-qq"]
    + ["-p", "no:cacheprovider", "-k", "test_one_", __file__],
    capture_output=True,
    text=True,
  )
  counts = [line.split()[-1] for line in run.stdout.splitlines() if line]
  assert counts == ["3", "4", "14"], run.stdout + run.stderr


def test_jax_settings():
  """Without it sharding would go untested, and forgotten axes unseen."""
  assert jax.device_count() >= 8 or jax.default_backend() != "cpu"
  with pytest.raises(ValueError, match="rank"):
    jnp.ones((2, 3)) + jnp.ones(3)


def test_x64_is_double_precision(x64):
  """Without it float64 tests would run in float32."""
  assert jnp.ones(1).dtype == np.float64


def test_x64_ends_with_its_test():
  """Without it the rest of the suite would not test what users run."""
  assert jnp.ones(1).dtype == np.float32
