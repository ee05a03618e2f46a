"""Softmax over pieces of the keys, joined without ever holding all scores.

The attention of a query to any set of keys is known from three numbers: the
largest score, the sum of exponentials relative to it, and their sum weighted
by the values. Two disjoint sets of keys can be joined from these alone.

Special cases, which every function here keeps:
  A query that sees no key has only scores of -inf. Its total is 0, its
  log-sum-exp -inf, and its y and all derivatives are 0.
  A query with a score of NaN has a total and a log-sum-exp of NaN.

References:
  Milakov & Gimelshein, 2018, https://arxiv.org/abs/1805.02867;
  Rabe & Staats, 2021, https://arxiv.org/abs/2112.05682.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

Weigh = Callable[[jax.Array], jax.Array]


class Partial(NamedTuple):
  """Softmax attention to some of the keys.

  Attributes:
    top: [..., 1], the largest score; -inf if there is none. If a score is NaN
      or inf, it may be any.
    total: [..., 1], Σ exp(score - top); NaN if a score is NaN.
    numerator: [..., V], Σ exp(score - top) v.
  """

  top: jax.Array
  total: jax.Array
  numerator: jax.Array

  @classmethod
  def of(cls, scores: jax.Array, weigh: Weigh) -> "Partial":
    """Attends to one set of keys.

    Args:
      scores: [..., t], of t keys.
      weigh: Maps weights [..., t], each exp(score - top), to Σ weight · v,
        [..., V].

    Returns:
      The attention to these keys. `top` is a constant to the derivative.
    """
    top, weights = _exponentials(scores)
    # If an inf were the top, joining would multiply the other keys by NaN, and
    # so their gradients. The total is NaN, which is enough.
    top = jnp.where(top < jnp.inf, top, -jnp.inf)
    return cls(top, weights.sum(-1, keepdims=True), weigh(weights))

  def extend(self, scores: jax.Array, weigh: Weigh) -> "Partial":
    """Attends to further keys; like `join(of(scores, weigh))` in less work.

    Args:
      scores: [..., t], of t further keys.
      weigh: As in `of`.

    Returns:
      The attention to all keys so far.
    """
    top = jnp.maximum(self.top, scores.max(-1, keepdims=True))
    weights = jnp.exp(scores - _zero_if_neg_inf(top))
    shrink = jnp.exp(self.top - _zero_if_neg_inf(top))
    total = self.total * shrink + weights.sum(-1, keepdims=True)
    return Partial(top, total, self.numerator * shrink + weigh(weights))

  def join(self, other: "Partial") -> "Partial":
    """Returns the attention to the keys of both, which have none in common."""
    top = jnp.maximum(self.top, other.top)
    shrink, shrink_other = (
      jnp.exp(x - _zero_if_neg_inf(top)) for x in (self.top, other.top)
    )
    return Partial(
      top,
      self.total * shrink + other.total * shrink_other,
      self.numerator * shrink + other.numerator * shrink_other,
    )

  def join_stacked(self) -> "Partial":
    """Joins n partials that are stacked on the first axis."""
    top = jax.lax.stop_gradient(self.top.max(0))
    shrink = jnp.exp(self.top - _zero_if_neg_inf(top)[None])
    return Partial(
      top, (shrink * self.total).sum(0), (shrink * self.numerator).sum(0)
    )

  def finish(self) -> tuple[jax.Array, jax.Array]:
    """Returns y = numerator / total, and the log-sum-exp, [..., 1]."""
    divisor, lse = _divisor_and_lse(self.top, self.total)
    return self.numerator / divisor, lse


def softmax_and_lse(scores: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Computes the softmax over all keys at once.

  Args:
    scores: [..., S].

  Returns:
    probabilities: [..., S]; 0 for a query that sees no key.
    lse: [..., 1], the log-sum-exp.
  """
  top, weights = _exponentials(scores)
  divisor, lse = _divisor_and_lse(top, weights.sum(-1, keepdims=True))
  return weights / divisor, lse


def to_residual(lse: jax.Array) -> jax.Array:
  """Replaces -inf by a finite number, which `jax.debug_infs` accepts."""
  return jnp.where(lse == -jnp.inf, jnp.finfo(lse.dtype).max, lse)


def from_residual(lse: jax.Array) -> jax.Array:
  """Undoes `to_residual`."""
  return jnp.where(lse == jnp.finfo(lse.dtype).max, -jnp.inf, lse)


def _exponentials(scores):
  """The largest score, [..., 1], and exp(score - largest), [..., S].

  Beside a NaN the others must not overflow, or their gradients would be NaN.
  """
  top = jnp.where(jnp.isnan(scores), -jnp.inf, scores).max(-1, keepdims=True)
  top = jax.lax.stop_gradient(top)
  return top, jnp.exp(scores - _zero_if_neg_inf(top))


def _zero_if_neg_inf(top):
  """The largest score, or 0 if it is -inf: exp(-inf - 0) = 0."""
  return jnp.where(top > -jnp.inf, top, 0)


def _divisor_and_lse(top, total):
  """The total, or 1 where it is 0 or NaN; and the log-sum-exp."""
  sees = total > 0
  none = jnp.where(total == 0, -jnp.inf, jax.lax.stop_gradient(total))
  divisor = jnp.where(sees, total, 1)
  return divisor, jnp.where(sees, top + jnp.log(divisor), none)
