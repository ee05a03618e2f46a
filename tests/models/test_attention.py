"""The layer of linear attention, where it differs from its kernel."""

import jax
import jax.numpy as jnp
import numpy as np

from slim.models.attention import LinearAttention, init_attention_state
from tests.helpers import assert_gradients_close, relative_errors

B, T, D, H = 2, 150, 32, 2


def value_and_gradients(dtype, params, x, pieces=1):
  """A loss of all outputs, and its gradient, in one piece or more."""
  layer = LinearAttention(H, "square", False, jnp.dtype(dtype))

  def loss(params, x):
    state = init_attention_state(B, H, D // H, dtype=dtype, compensated=False)
    total = 0.0
    for piece in jnp.split(x, pieces, axis=1):
      y, _, state = layer.apply({"params": params}, piece, state, keep)
      # Not a plain sum, to which what all values share adds a constant.
      total += jnp.sum(jnp.sin(y) * jnp.cos(piece))
    return total

  cast = jax.tree.map(lambda a: jnp.asarray(a, dtype), (params, x))
  return jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))(*cast)


def keep(sums, update):
  """The `start` of a walk forward."""
  del update
  return sums


def setup(common):
  """Parameters and inputs; all values have `common` in common."""
  x = np.random.default_rng(0).normal(size=(B, T, D))
  layer = LinearAttention(H, "square", False, jnp.float64)
  state = init_attention_state(
    B, H, D // H, dtype=jnp.float64, compensated=False
  )
  params = layer.init(jax.random.key(0), x[:, :1], state, keep)["params"]
  params["v"]["bias"] += common
  return params, x


def test_what_all_values_share_leaves_no_error(x64):
  """Trained models, whose values do share much, would have noisy queries."""
  params, x = setup(common=30.0)
  exact = value_and_gradients("float64", params, x)[1]
  errors = relative_errors(value_and_gradients("float32", params, x)[1], exact)
  assert max(errors.values()) <= 5e-6


def test_the_origin_does_not_see_the_cut(x64):
  """Each chunk would measure its values from a place of its own."""
  params, x = setup(common=1.0)
  found = value_and_gradients("float64", params, x, pieces=5)
  assert_gradients_close(
    found, value_and_gradients("float64", params, x), 1e-12
  )
