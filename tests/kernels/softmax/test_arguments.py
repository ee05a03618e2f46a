"""What arguments of softmax attention may be: scales, masks, batches of 0."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from slim.kernels import (
  attention_fn,
  chunked_softmax_attention,
  softmax_attention,
  softmax_attention_and_lse,
)
from tests.helpers import assert_gradients_close
from tests.kernels.softmax.arguments import FORMS, KEYS, zeros


def sum_of_sines(attend, q, k, v, scale):
  """A loss, whose scale may be an array."""
  y = attend(q, k, v, scale=scale, is_causal=True)
  return jnp.sin(y.astype(jnp.float64)).sum()


def scaled_by_hand(q, k, v, scale):
  """The same loss in float64, of queries that are scaled before."""
  q = jnp.asarray(q, jnp.float64) * scale
  k, v = (jnp.asarray(x, jnp.float64) for x in (k, v))
  return sum_of_sines(softmax_attention, q, k, v, 1.0)


@functools.partial(jax.jit, static_argnums=0)
def gradients_by_scale(loss, *args):
  """The gradients of all arguments, at each of several scales."""
  gradient = jax.grad(loss, (0, 1, 2, 3))
  return jax.vmap(gradient, (None, None, None, 0))(*args)


@pytest.mark.parametrize(
  ("form", "dtype"),
  [
    ("whole", "float64"),
    ("from_lse", "float64"),
    ("from_lse", "bfloat16"),
    ("remat", "float64"),
  ],
)
def test_array_as_scale(x64, form, dtype):
  """Fails if a learned temperature cannot be traced or differentiated."""
  random = np.random.default_rng(2)
  qkv = jnp.asarray(random.normal(size=(3, 1, 5, 2, 3)), dtype)
  args = *qkv, jnp.array([0.5, 0.0, -2.0])
  tol = 1e-12 if dtype == "float64" else 0.02
  found = gradients_by_scale(
    functools.partial(sum_of_sines, FORMS[form]), *args
  )
  assert_gradients_close(found, gradients_by_scale(scaled_by_hand, *args), tol)


def test_numbers_of_numpy_and_jax():
  """Fails if numbers of NumPy or JAX are refused."""
  q, k, v = (x + 1 for x in zeros().values())

  numbers = (
    (0.25, 0.5),
    (np.float32(0.25), np.float32(0.5)),
    (jnp.float32(0.25), jnp.bfloat16(0.5)),
    (1 - 1e-10, jnp.int32(1)),
  )

  @functools.partial(jax.jit, static_argnums=0)
  def attend(i):
    rate, scale = numbers[i]
    return chunked_softmax_attention(
      q,
      k,
      v,
      scale=scale,
      dropout_rate=rate,
      dropout_keys=KEYS,
      is_causal=np.True_,
    )

  for i in (1, 2):
    np.testing.assert_array_equal(attend(i), attend(0))
  # Almost everything is dropped, and nothing overflows.
  np.testing.assert_array_equal(attend(3), 0)


def test_batch_of_0():
  """Fails if a batch without sequences is an error of a reshape."""
  q, k, v = zeros(q=(0, 5, 4, 8), k=(0, 6, 2, 8), v=(0, 6, 2, 8)).values()
  for form in FORMS.values():
    gradients = jax.grad(
      lambda *qkv, form=form: form(
        *qkv,
        jnp.zeros((0, 1, 5, 6)),
        jnp.ones((0, 1, 5, 6), bool),
        is_causal=True,
        query_offset=jnp.zeros(0, jnp.int32),
        dropout_rate=0.1,
        dropout_keys=KEYS[:0],
      ).sum(),
      (0, 1, 2),
    )
    shapes = jax.eval_shape(gradients, q, k, v)
    assert [x.shape for x in shapes] == [x.shape for x in (q, k, v)]
  x = jnp.zeros((2, 0, 5, 4, 8))
  run = functools.partial(
    attention_fn, dropout_rate=0.1, dropout_rng=jax.random.key(0)
  )
  assert jax.eval_shape(run, x, x, x).shape == x.shape
  y, lse = jax.eval_shape(softmax_attention_and_lse, q, k, v)
  assert (y.shape, lse.shape) == ((0, 5, 4, 8), (0, 5, 4))


def test_mask_function_as_documented():
  """Fails if the docstring's example raises under strict rank promotion."""
  lengths = jnp.array([6, 2])
  arguments = zeros()
  arguments["v"] = jnp.broadcast_to(jnp.eye(6, 8)[:, None], (2, 6, 2, 8))
  mask_fn = lambda i, j: j < lengths[:, None, None, None]  # noqa: E731
  for form in (softmax_attention, chunked_softmax_attention):
    y = jax.jit(functools.partial(form, mask_fn=mask_fn))(**arguments)
    right = np.broadcast_to([0.5, 0.5, 0], (5, 4, 3))
    np.testing.assert_allclose(y[1, ..., :3], right)
