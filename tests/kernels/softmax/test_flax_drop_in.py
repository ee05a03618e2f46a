"""Chunked attention inside the attention layers of Flax."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen, nnx

from slim.kernels import attention_fn
from tests.helpers import assert_gradients_close, each_value

X = np.random.default_rng(0).normal(size=(2, 3, 7, 8))


def linen_layer(**settings):
  """A layer of two heads."""
  return linen.MultiHeadDotProductAttention(
    num_heads=2, param_dtype=jnp.float64, **settings
  )


@pytest.mark.parametrize(
  "case", each_value(masked=[False, True], batch_axes=[1, 2])
)
def test_linen(x64, case):
  """Fails if the layer does not run, or computes something else."""
  masked, batch_axes = case["masked"], case["batch_axes"]
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
    1e-6,  # JAX computes a part in float32.
  )


def test_bias_and_mask_with_two_batch_axes(x64):
  """Fails if a relative position bias is left out."""
  random = np.random.default_rng(1)
  q, k, v = jnp.asarray(random.normal(size=(3, 2, 3, 7, 2, 4)))
  bias = jnp.asarray(random.normal(size=(2, 3, 2, 7, 7)))
  mask = jnp.asarray(random.random((2, 3, 1, 7, 7)) < 0.8)
  found, right = map(jax.jit, (attention_fn, linen.dot_product_attention))
  for args in ((bias, mask), (bias[:1, :1], mask[:1, :1])):
    np.testing.assert_allclose(
      found(q, k, v, *args), right(q, k, v, *args), atol=1e-6
    )


@pytest.mark.parametrize("is_causal", [False, True])
def test_nnx(x64, is_causal):
  """Fails if the layer does not run, or computes something else."""

  def output(**settings):
    layer = nnx.MultiHeadAttention(
      num_heads=2,
      in_features=8,
      param_dtype=jnp.float64,
      decode=False,
      rngs=nnx.Rngs(0),
      **settings,
    )
    return jax.jit(functools.partial(layer, is_causal=is_causal))(
      jnp.asarray(X[0])
    )

  assert_gradients_close(output(attention_fn=attention_fn), output(), 1e-6)


def test_dropout_differs_per_call_and_can_be_off(x64):
  """Fails if a network trains without dropout, or is evaluated with it."""
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
  """Fails if a request for the weights is ignored."""
  x = jnp.asarray(X[0])
  layer = linen_layer(attention_fn=attention_fn)
  with pytest.raises(ValueError, match="sow_weights must be False"):
    layer.init(jax.random.key(0), x, sow_weights=True)


@pytest.mark.parametrize(
  ("shapes", "message"),
  [
    (
      [(2, 3, 7, 2, 4), (3, 2, 7, 2, 4)],
      r"key must have .* batch=\(2, 3\), K=4, got \(3, 2, 7, 2, 4\)",
    ),
    ([(2, 3, 7, 2, 4), (6, 7, 2, 4)], r"key must .* got \(6, 7, 2, 4\)"),
    ([(7, 2, 4), (1, 7, 2, 4)], r"key must .* batch=\(\), .* \(1, 7, 2, 4\)"),
    ([(1, 7, 2, 4), (7, 2, 4)], r"key must .* got \(7, 2, 4\)"),
    ([(7, 4), (7, 4)], r"query must have .*batch…, T, H, K\], got \(7, 4\)"),
    (
      [(2, 7, 2, 4), (2, 7, 2, 4), (1, 7, 2, 4)],
      r"value must have .* batch=\(2,\), S=7, G=2, got \(1, 7, 2, 4\)",
    ),
    ([(2, 7, 3, 4), (2, 7, 2, 4)], "key must have a number of heads that div"),
    (
      [*[(2, 3, 7, 2, 4)] * 3, (3, 2, 1, 7, 7)],
      r"bias must broadcast to \[batch0=2, .*shape \(3, 2, 1, 7, 7\)",
    ),
    (
      [*[(2, 3, 7, 2, 4)] * 3, (1, 1, 1), (6, 1, 7, 7)],
      r"mask must broadcast to \[batch0=2, .*shape \(6, 1, 7, 7\)",
    ),
  ],
)
def test_shapes_that_flax_refuses_are_refused(shapes, message):
  """Fails if queries attend to the keys of another sequence."""
  arrays = [jnp.zeros(shape) for shape in shapes]
  with pytest.raises(ValueError, match=message):
    attention_fn(*arrays, *arrays[1:2] * (len(arrays) == 2))


@pytest.mark.parametrize(
  "precision",
  [
    jax.lax.Precision.HIGHEST,
    (jax.lax.Precision.HIGHEST, jax.lax.Precision.HIGH),
    jax.lax.DotAlgorithmPreset.F32_F32_F32,
    jax.lax.DotAlgorithm(np.float32, np.float32, np.float32),
  ],
)
def test_precision_applies_to_all_products(precision):
  """Fails if it is refused, or only used in the forward pass."""
  layer = linen.MultiHeadDotProductAttention(
    num_heads=2, attention_fn=attention_fn, precision=precision
  )
  x = jnp.zeros((1, 7, 8))
  params = jax.eval_shape(layer.init, jax.random.key(0), x)

  def loss(params, x):
    return layer.apply(params, x).sum()

  jaxpr = str(jax.make_jaxpr(jax.grad(loss, (0, 1)))(params, x))
  of_products = [
    re.search("precision=(.*)", after)
    for after in jaxpr.split("dot_general[")[1:]
  ]
  assert len(of_products) > 12  # The layer's projections make twelve.
  assert None not in of_products
  assert len({x[1] for x in of_products}) == 1
