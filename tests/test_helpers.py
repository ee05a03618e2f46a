"""Tests of the tests' own tools: errors, grids, options and settings."""

import itertools
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.helpers import assert_gradients_close, pairwise, relative_errors

GRID = {"chunk": [1, 7, 64], "norm": ["pre", "post"], "even": [True, False]}


def test_error_is_relative_to_the_parameter():
  """Without it a wrong small parameter would hide behind a large one."""
  right = {"a": np.array([3.0, 4.0]), "b": {"c": np.array([[0.5]])}}
  wrong = {"a": np.array([3.0, 4.5]), "b": {"c": np.array([[0.6]])}}
  errors = relative_errors(wrong, right)
  assert errors == pytest.approx({"a": 0.1, "b/c": 0.2})


def test_error_of_a_vanishing_parameter_is_relative_to_the_whole():
  """Without it the rounding of a zero gradient would count as an error."""
  right = {"a": np.array([3.0, 4.0]), "b": np.array([0.0])}
  wrong = {"a": np.array([3.0, 4.0]), "b": np.array([1e-6])}
  assert relative_errors(wrong, right)["b"] == pytest.approx(1e-6 / 5e-3)


def test_error_is_formed_in_float64():
  """Without it float32 norms would lose what float64 gradients show."""
  right = np.float32([1e-30, 3e30])
  assert relative_errors(right * np.float32(1.5), right)[""] == pytest.approx(
    0.5
  )
  right = np.float64([1.0])
  assert relative_errors(right + 1e-13, right)[""] == pytest.approx(1e-13, 0.01)


def test_error_where_all_is_zero():
  """Without it 0 / 0 would let anything pass."""
  zero = jnp.zeros(3)
  assert relative_errors(zero, zero) == {"": 0.0}
  assert relative_errors(zero + 1e-9, zero) == {"": np.inf}


def test_errors_of_other_trees_are_refused():
  """Without it a missing or broadcast gradient would pass."""
  with pytest.raises(AssertionError, match="one side only.*b"):
    relative_errors({"a": jnp.ones(2)}, {"a": jnp.ones(2), "b": jnp.ones(2)})
  with pytest.raises(AssertionError, match=r"a is \(1,\), expected \(2,\)"):
    relative_errors({"a": jnp.ones(1)}, {"a": jnp.ones(2)})


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


def test_cover_has_all_pairs():
  """Without it `make test` would leave pairs of settings untried, or none."""
  cases = pairwise(**GRID)
  cover = [case.values[0] for case in cases if not case.marks]
  for (one, xs), (other, ys) in itertools.combinations(GRID.items(), 2):
    pairs = {(case[one], case[other]) for case in cover}
    assert pairs == set(itertools.product(xs, ys))
  assert len(cover) <= 7 < len(cases) == 12
  assert not any(case.marks for case in pairwise(chunk=[1, 7, 64]))


def test_cases_have_readable_names():
  """Without it a failing case would be called case17."""
  names = [case.id for case in pairwise(f=[jnp.tanh, len], chunk=[7])]
  assert names == ["f=tanh-chunk=7", "f=len-chunk=7"]


@pytest.mark.parametrize("case", pairwise(**GRID))
def test_one_case(case):
  """Stands for a test with a grid, for the test below."""
  assert case.keys() == GRID.keys()


@pytest.mark.parametrize("options, count", [([], 6), (["--full"], 12)])
def test_full_runs_the_whole_product(options, count):
  """Without it --full would run the cover, or plain pytest everything."""
  run = subprocess.run(
    [sys.executable, "-m", "pytest", "--collect-only", "-qq", *options]
    + ["-p", "no:cacheprovider", f"{__file__}::test_one_case"],
    capture_output=True,
    text=True,
  )
  assert run.stdout.split()[-1] == str(count), run.stdout + run.stderr


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
