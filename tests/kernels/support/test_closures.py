"""Functions whose closure became an argument."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from slim.kernels.support.closures import closure_to_arguments


def test_converted_function_computes_the_same():
  """Fails if arguments and closure are mixed up, or the structure is lost."""
  scale, shift = jnp.full(3, 2.0), np.arange(3.0, dtype=np.float32)

  def fn(x, pair):
    return {"y": x * scale + shift, "z": (pair[0] - pair[1], x)}

  args = (jnp.arange(3.0), [jnp.ones(2), jnp.zeros(2)])
  converted, consts = closure_to_arguments(fn, *args)
  jax.tree.map(
    np.testing.assert_array_equal, converted(consts, *args), fn(*args)
  )
  assert converted.out["y"].shape == (3,)


@pytest.mark.parametrize("traced", [True, False])
def test_closure_is_an_argument(traced):
  """Fails if what a step closes over gets no gradient, traced or not."""
  x = jnp.array([1.0, 2.0])

  def loss(weights):
    closed_over = weights if traced else jnp.array([3.0, 5.0])
    converted, consts = closure_to_arguments(
      lambda x: (x * closed_over).sum(), x
    )
    (index,) = (i for i, c in enumerate(consts) if c.shape == (2,))
    consts[index] = weights
    return converted(consts, x)

  gradient = jax.jit(jax.grad(loss))(jnp.array([7.0, 7.0]))
  np.testing.assert_array_equal(gradient, x)


def test_keys_can_be_closed_over_under_grad_of_jit():
  """Fails if dropout inside a step fails, as with `jax.closure_convert`."""
  key = jax.random.key(0)

  def run(x, key):
    converted, consts = closure_to_arguments(
      lambda x: (x * jax.random.normal(key, x.shape)).sum(), x
    )
    return converted(consts, x)

  x = jnp.ones(3)
  gradient = jax.grad(jax.jit(run))(x, key)
  np.testing.assert_array_equal(gradient, jax.random.normal(key, (3,)))
