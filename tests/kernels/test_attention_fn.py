"""Chunked attention inside the attention layers of Flax."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen, nnx

from slim.kernels import attention_fn
from tests.helpers import assert_gradients_close

X = np.random.default_rng(0).normal(size=(2, 3, 7, 8))


def linen_layer(**settings):
  """A layer of two heads."""
  return linen.MultiHeadDotProductAttention(
    num_heads=2, param_dtype=jnp.float64, **settings
  )


@pytest.mark.parametrize("batch_axes", [1, 2])
@pytest.mark.parametrize("masked", [False, True])
def test_linen(x64, masked, batch_axes):
  """The layer would not run, or compute something else."""
  x = jnp.asarray(X if batch_axes == 2 else X[0])
  mask = linen.make_causal_mask(x[..., 0]) if masked else None
  params = jax.jit(linen_layer().init)(jax.random.key(0), x)

  def value_and_gradients(layer):
    def loss(params, x):
      return jnp.sin(layer.apply(params, x, mask=mask)).sum()

    return jax.jit(jax.value_and_grad(loss, (0, 1)))(params, x)

  assert_gradients_close(
    value_and_gradients(linen_layer(attention_fn=attention_fn)),
    value_and_gradients(linen_layer()),
    1e-6,  # Flax hands on to JAX, where something is float32.
  )


def test_bias_and_mask_of_a_batch_of_two_axes(x64):
  """A relative position bias would be left out."""
  random = np.random.default_rng(1)
  q, k, v = jnp.asarray(random.normal(size=(3, 2, 3, 7, 2, 4)))
  bias = jnp.asarray(random.normal(size=(2, 3, 2, 7, 7)))
  mask = jnp.asarray(random.random((2, 3, 1, 7, 7)) < 0.8)
  for args in ((bias, mask), (bias[:1, :1], mask[:1, :1])):
    np.testing.assert_allclose(
      attention_fn(q, k, v, *args),
      linen.dot_product_attention(q, k, v, *args),
      atol=1e-6,
    )


@pytest.mark.parametrize("is_causal", [False, True])
def test_nnx(x64, is_causal):
  """The layer would not run, or compute something else."""

  def output(**settings):
    layer = nnx.MultiHeadAttention(
      num_heads=2,
      in_features=8,
      param_dtype=jnp.float64,
      decode=False,
      rngs=nnx.Rngs(0),
      **settings,
    )
    return layer(jnp.asarray(X[0]), is_causal=is_causal)

  assert_gradients_close(output(attention_fn=attention_fn), output(), 1e-6)


def test_dropout_is_drawn_anew_and_not_where_it_is_off(x64):
  """A network would train without it, or be evaluated with it."""
  layer = linen_layer(attention_fn=attention_fn, dropout_rate=0.5)
  x = jnp.asarray(X[0])
  init = functools.partial(layer.init, deterministic=True)
  params = jax.jit(init)(jax.random.key(0), x)

  @functools.partial(jax.jit, static_argnums=1)
  def output(seed, deterministic=False):
    rngs = {"dropout": jax.random.key(seed)}
    return layer.apply(params, x, deterministic=deterministic, rngs=rngs)

  np.testing.assert_array_equal(output(1), output(1))
  assert (output(1) != output(2)).any()
  np.testing.assert_array_equal(output(1, True), output(2, True))


def test_weights_are_refused(x64):
  """Nothing would be there to sow."""
  x = jnp.asarray(X[0])
  layer = linen_layer(attention_fn=attention_fn)
  with pytest.raises(ValueError, match="sow_weights must be False"):
    layer.init(jax.random.key(0), x, sow_weights=True)
