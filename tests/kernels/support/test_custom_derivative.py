"""Custom derivatives of first order: what all such kernels share."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from slim.kernels.support.custom_derivative import (
  add_to_sum,
  first_order_vjp,
  zeros_for_sum,
)


def forward(power, params, key):
  """Computes w ** power, and the residuals."""
  return params["w"] ** power, (params, key)


def backward(power, residuals, y_ct):
  """The cotangents of the inexact leaves of `params`; none for the key."""
  params, _ = residuals
  ct = power * params["w"].astype(jnp.float32) ** (power - 1) * y_ct
  return [ct], None


fn = first_order_vjp(forward, backward, lambda power: f"no {power}, twice")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_cotangents_fit_their_arguments(dtype):
  """Fails if an integer or key needs a cotangent, or if a dtype changes."""
  params = {"n": jnp.arange(2), "w": jnp.array([2.0, 3.0], dtype)}

  def loss(params):
    return fn(3, params, jax.random.key(0)).astype(jnp.float32).sum()

  gradient = jax.jit(jax.grad(loss, allow_int=True))(params)
  assert gradient["w"].dtype == dtype
  assert gradient["n"].dtype == jax.dtypes.float0
  np.testing.assert_array_equal(gradient["w"], jnp.array([12, 27], dtype))


def test_other_derivatives_are_refused():
  """Fails if a second derivative or forward mode is wrong instead."""

  def f(x):
    return fn(2, {"w": x}, jax.random.key(0))

  with pytest.raises(ValueError, match="^no 2, twice"):
    jax.grad(jax.grad(f))(1.0)
  with pytest.raises(ValueError, match="^no 2, twice"):
    jax.jvp(jax.grad(f), (1.0,), (1.0,))
  with pytest.raises(TypeError, match="forward-mode"):
    jax.jvp(f, (1.0,), (1.0,))


def test_sums_are_float32_or_wider(x64):
  """Fails if small summands are lost in bfloat16."""
  tree = [jnp.ones(1, jnp.bfloat16), None, jnp.ones(1, jnp.float64)]
  total = zeros_for_sum(tree)
  for _ in range(300):
    total = add_to_sum(total, tree)
  assert [x.dtype for x in jax.tree.leaves(total)] == ["float32", "float64"]
  assert [x.item() for x in jax.tree.leaves(total)] == [300, 300]
