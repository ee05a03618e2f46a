"""NaN and inf in keys and values reach only the queries that see them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from slim.kernels import (
  chunked_softmax_attention_and_lse,
  merge_attention,
  softmax_attention_and_lse,
)

IN_BLOCKS = functools.partial(
  chunked_softmax_attention_and_lse, q_block_size=4, k_block_size=3
)
FORMS = {
  "whole": softmax_attention_and_lse,
  "from_lse": IN_BLOCKS,
  "remat": functools.partial(IN_BLOCKS, backward="remat"),
}
# One sequence for each way to hide key 4: mask, bias, mask_fn, bias_fn, window
# from all queries, causality from some, and a mask from some.
B, T, S, BAD = 7, 9, 8, 4
OFFSETS = np.array([S, S, S, S, 99 + BAD, 0, S])


def make_inputs():
  """Arguments, and which queries see which keys, [B, T, S]."""
  random = np.random.default_rng(0)
  q, y_ct = random.normal(size=(2, B, T, 4, 3))
  k, v = random.normal(size=(2, B, S, 2, 3))
  mask = random.random((B, 1, T, S)) < 0.9
  bias = random.normal(size=(B, 1, T, S))
  mask[..., 0] = True
  mask[0, ..., BAD] = False
  bias[1, ..., BAD] = -np.inf
  mask[6, :, :5, BAD] = False
  distance = np.arange(S) - np.arange(T)[:, None] - OFFSETS[:, None, None]
  sees = mask[:, 0] & (bias[:, 0] > -np.inf) & (distance <= 0)
  sees &= distance >= -98
  sees[2:4, :, BAD] = False
  lse_ct = random.normal(size=(B, T, 4))
  inputs = {"q": q, "k": k, "v": v, "bias": bias, "scale": np.array(0.6)}
  return inputs, mask, (y_ct, lse_ct), sees


@functools.partial(jax.jit, static_argnums=0)
def run(form, inputs, mask, cts):
  """y and lse, and the gradients of the inputs."""
  at = np.arange(B)[:, None, None, None]

  def attend(inputs):
    y, lse = FORMS[form](
      **inputs,
      mask=mask,
      is_causal=True,
      local_window_size=98,
      query_offset=OFFSETS,
      mask_fn=lambda i, j: (j != BAD) | (at != 2),
      bias_fn=lambda _, i, j: jnp.where((j == BAD) & (at == 3), -jnp.inf, 0.0),
    )
    return y, jnp.where(lse == -jnp.inf, 0, lse)

  outputs, vjp = jax.vjp(attend, inputs)
  return outputs, vjp(cts)[0]


@pytest.mark.parametrize("form", FORMS)
def test_nan_reaches_only_queries_that_see_it(x64, form):
  """Fails if padding of a cache makes a batch, or its gradient, NaN."""
  inputs, mask, cts, sees = make_inputs()
  reached = sees[..., BAD]
  assert not reached[:5].any() and reached[5:].any() and not reached.all(1)[0]
  others = np.arange(S) != BAD

  # Queries that are NaN add nothing to the gradients of keys and values.
  def with_reached(value):
    return tuple(
      np.where(reached.reshape(B, T, *[1] * (x.ndim - 2)), value, x)
      for x in cts
    )

  right, right_grads = run(form, inputs, mask, with_reached(0))
  close = functools.partial(np.testing.assert_allclose, atol=1e-11, rtol=0)
  for name, value in (
    ("k", np.nan),
    ("k", -np.inf),
    ("v", np.nan),
    ("v", np.inf),
  ):
    bad = inputs | {name: inputs[name].copy()}
    bad[name][:, BAD, 0, 1] = value
    bad[name][:, BAD, 1, 0] = value
    outputs, grads = run(form, bad, mask, with_reached(np.nan))
    for x, expected in zip(outputs, right, strict=True):
      close(x[~reached], expected[~reached])
      assert np.isnan(x[reached]).all()
    close(grads["q"][~reached], right_grads["q"][~reached])
    bias, expected = (x["bias"][:, 0] for x in (grads, right_grads))
    close(bias[~reached], expected[~reached])
    for x in "kv":
      close(grads[x][:, others], right_grads[x][:, others])
      close(grads[x][:5], right_grads[x][:5])
    assert np.isnan(grads["q"][reached]).all()


@pytest.mark.parametrize("form", FORMS)
def test_query_without_keys_may_be_nan(x64, form):
  """Fails if padding of queries makes the gradients of keys NaN."""
  inputs, mask, cts, _ = make_inputs()
  mask[:, :, 3] = False
  bad = inputs | {"q": inputs["q"].copy()}
  bad["q"][:, 3] = np.nan
  right, found = (run(form, x, mask, cts) for x in (inputs, bad))
  for x, expected in zip(*map(jax.tree.leaves, (found, right)), strict=True):
    np.testing.assert_allclose(x, expected, atol=1e-11, rtol=0)


@pytest.mark.parametrize("form", FORMS)
def test_an_infinite_query_is_nan(form):
  """Fails if an overflow looks like a query that sees no key."""
  one = np.ones((1, 2, 1, 1), np.float32)
  q = np.float32([np.inf, 1]).reshape(one.shape)
  y, lse = jax.jit(FORMS[form])(q, -one, one)
  np.testing.assert_array_equal(np.isnan(y).ravel(), [True, False])
  np.testing.assert_array_equal(np.isnan(lse).ravel(), [True, False])


@pytest.mark.parametrize("form", FORMS)
def test_a_nan_beside_large_scores_stays_alone(form):
  """Fails if a score of 100 beside one of NaN overflows in the gradient."""
  q = np.full((1, 1, 1, 1), 100, np.float32)
  k = np.float32([1, np.nan]).reshape(1, 2, 1, 1)

  def loss(v, q, k):
    return FORMS[form](q, k, v, scale=1.0)[0].sum()

  grad = jax.jit(jax.grad(loss))(0 * k, q, k)
  assert grad[0, 0] == 0


def test_merged_pieces_keep_nan_apart(x64):
  """Fails if a NaN in one piece reaches the keys of another."""
  random = np.random.default_rng(0)
  q, k, v = random.normal(size=(3, 1, 2, 1, 3))
  k[0, 0] = np.nan

  def merged(k):
    pieces = [IN_BLOCKS(q, k[:, i : i + 1], v[:, i : i + 1]) for i in range(2)]
    return merge_attention(pieces)[0]

  y, vjp = jax.vjp(merged, jnp.asarray(k))
  assert np.isnan(y).all()
  (k_ct,) = vjp(jnp.full_like(y, jnp.nan))
  assert np.isfinite(k_ct[0, 1]).all()
