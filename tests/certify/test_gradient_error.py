"""The relative error of gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from slim.certify.gradient_error import largest_error, relative_errors


def test_error_is_relative_to_the_parameter():
  """Fails if a wrong small parameter hides behind a large one."""
  right = {"a": np.array([3.0, 4.0]), "b": {"c": np.array([[0.5]])}}
  wrong = {"a": np.array([3.0, 4.5]), "b": {"c": np.array([[0.6]])}}
  errors = relative_errors(wrong, right)
  assert errors == pytest.approx({"a": 0.1, "b/c": 0.2})


def test_error_of_zero_gradient_is_relative_to_whole_tree():
  """Fails if the rounding of a zero gradient counts as an error."""
  right = {"a": np.array([3.0, 4.0]), "b": np.array([0.0])}
  wrong = {"a": np.array([3.0, 4.0]), "b": np.array([1e-6])}
  assert relative_errors(wrong, right)["b"] == pytest.approx(1e-6 / 5e-3)


def test_error_is_formed_in_float64():
  """Fails if norms overflow or round in float32."""
  right = np.float32([1e-30, 3e30])
  assert relative_errors(right * np.float32(1.5), right)[""] == pytest.approx(
    0.5
  )
  right = np.float64([1.0])
  assert relative_errors(right + 1e-13, right)[""] == pytest.approx(1e-13, 0.01)


def test_error_against_zero():
  """Fails if 0 / 0 lets any gradient pass."""
  zero = jnp.zeros(3)
  assert relative_errors(zero, zero) == {"": 0.0}
  assert relative_errors(zero + 1e-9, zero) == {"": np.inf}


def test_different_trees_raise():
  """Fails if a missing or broadcast gradient passes."""
  with pytest.raises(ValueError, match=r"in one only: \['b'\]"):
    relative_errors({"a": jnp.ones(2)}, {"a": jnp.ones(2), "b": jnp.ones(2)})
  with pytest.raises(ValueError, match=r"must have shape \(2,\), got \(1,\)"):
    relative_errors({"a": jnp.ones(1)}, {"a": jnp.ones(2)})


@pytest.mark.parametrize("place", [0, 1])
def test_largest_error_is_nan_if_any_is(place):
  """Fails if the maximum skips NaN, which compares false."""
  right = [np.ones(2), np.ones(2)]
  wrong = [np.ones(2), np.ones(2)]
  wrong[1 - place] = np.full(2, 1.1)
  assert largest_error(wrong, right) == pytest.approx(0.1)
  wrong[place] = np.array([1.0, np.nan])
  assert np.isnan(largest_error(wrong, right))


def test_complex_number_is_pair():
  """Fails if a wrong imaginary part has no error."""
  right = {"a": np.array([3 + 4j]), "b": np.array([1.0])}
  wrong = {"a": np.array([3 + 4.5j]), "b": np.array([1.0])}
  pairs = {"a": np.array([3.0, 4.0]), "b": np.array([1.0])}
  wrong_pairs = {"a": np.array([3.0, 4.5]), "b": np.array([1.0])}
  found = relative_errors(jax.tree.map(jnp.asarray, wrong), right)
  assert found == relative_errors(wrong_pairs, pairs) == {"a": 0.1, "b": 0}
  assert relative_errors({"a": 1j}, {"a": 0.0}) == {"a": np.inf}
  assert np.isnan(relative_errors({"a": complex(0, np.nan)}, {"a": 1.0})["a"])


def test_leaves_without_gradient_are_skipped():
  """Fails if a key among parameters ends in a traceback."""
  right = {"key": jax.random.key(0), "n": np.zeros(2, jax.dtypes.float0)}
  assert largest_error(right, right) == 0
  assert relative_errors(right | {"a": 1.0}, right | {"a": 2.0}) == {"a": 0.5}
