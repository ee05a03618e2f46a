"""Softmax over pieces of the keys equals softmax over all of them."""

import jax
import jax.numpy as jnp
import numpy as np

from slim.kernels.support.online_softmax import (
  Partial,
  from_residual,
  softmax_and_lse,
  to_residual,
)


def make_scores():
  """Scores of 6 keys, for queries that see some, none, and a NaN."""
  scores = np.random.default_rng(0).normal(size=(4, 6))
  scores[0] *= 1e4
  scores[1, :3] = -np.inf
  scores[2] = -np.inf
  scores[3, 4] = np.nan
  values = np.random.default_rng(1).normal(size=(6, 2))
  return jnp.asarray(scores), jnp.asarray(values)


def attend(scores, values):
  """Attention to a piece of the keys."""
  return Partial.of(scores, lambda weights: weights @ values)


def whole(scores, values):
  """y and the log-sum-exp from all keys at once."""
  p, lse = softmax_and_lse(scores)
  return p @ values, lse


def extended(scores, values):
  """The same from three pieces, one after another."""
  found = attend(scores[:, :1], values[:1])
  for piece in (slice(1, 3), slice(3, 6)):
    weigh = values[piece]
    found = found.extend(scores[:, piece], lambda x, v=weigh: x @ v)
  return found.finish()


def joined(scores, values):
  """The same from two pieces that were computed apart."""
  one = attend(scores[:, :3], values[:3])
  return one.join(attend(scores[:, 3:], values[3:])).finish()


def joined_stack(scores, values):
  """The same from a stack of three pieces."""
  pieces = [attend(scores[:, i::3], values[i::3]) for i in range(3)]
  stacked = jax.tree.map(lambda *x: jnp.stack(x), *pieces)
  return stacked.join_stacked().finish()


def test_pieces_equal_the_whole(x64):
  """Fails if a way to join pieces is wrong, or without keys, or with NaN."""

  @jax.jit
  def in_all_forms(scores, values):
    forms = whole, extended, joined, joined_stack
    right = jax.nn.logsumexp(scores[:2], -1)
    return right, [form(scores, values) for form in forms]

  right, found = jax.device_get(in_all_forms(*make_scores()))
  (y, lse), *found = found
  np.testing.assert_allclose(lse[:2, 0], right, rtol=1e-12)
  assert (y[2] == 0).all() and lse[2] == -np.inf
  assert np.isnan(lse[3]).all()
  for found_y, found_lse in found:
    np.testing.assert_allclose(found_lse, lse, rtol=1e-12)
    # A query with a score of NaN has no y to compare.
    np.testing.assert_allclose(found_y[:3], y[:3], rtol=1e-12)


def test_gradient_of_a_stack_contains_no_foreign_nan(x64):
  """Fails if the NaN of one piece reaches the gradients of another."""

  def loss(values, scores, form):
    return form(scores, values)[0][:3].sum()

  @jax.jit
  def gradients(scores, values):
    forms = joined_stack, whole
    return [jax.grad(loss)(values, scores, form) for form in forms]

  found, right = gradients(*make_scores())
  np.testing.assert_allclose(found, right, rtol=1e-12)


def test_residual_is_finite():
  """Fails if `jax.debug_infs` reports a query that sees no key."""
  lse = jnp.array([-jnp.inf, 0.5])
  residual = to_residual(lse)
  assert np.isfinite(residual).all()
  np.testing.assert_array_equal(from_residual(residual), lse)
