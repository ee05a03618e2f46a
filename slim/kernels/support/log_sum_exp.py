"""Softmax in pieces: sums of exp(score - top), where there may be no score.

A query that sees no key has scores of -inf alone. Its sum is to be 0, its
log-sum-exp -inf and its derivatives 0, and nothing on the way NaN. A query with
a score of NaN has a sum of NaN, and a log-sum-exp of NaN.
"""

import jax
import jax.numpy as jnp


def zero_if_neg_inf(top: jax.Array) -> jax.Array:
  """The largest score, or 0 if it is -inf or NaN: exp(-inf - 0) = 0."""
  return jnp.where(top > -jnp.inf, top, 0)


def finish_softmax(
  top: jax.Array, total: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """Ends a sum of exponentials.

  Args:
    top: The largest score, -inf or NaN.
    total: Σ exp(score - zero_if_neg_inf(top)).

  Returns:
    What to divide by: total, or 1 where it is 0 or NaN; and the log-sum-exp.
  """
  sees = total > 0
  none = jnp.where(total == 0, -jnp.inf, jax.lax.stop_gradient(total))
  total = jnp.where(sees, total, 1)
  return total, jnp.where(sees, top + jnp.log(total), none)


def to_residual(lse: jax.Array) -> jax.Array:
  """A log-sum-exp with a finite number for -inf, which JAX may check for."""
  return jnp.where(lse == -jnp.inf, jnp.finfo(lse.dtype).max, lse)


def from_residual(lse: jax.Array) -> jax.Array:
  """Undoes `to_residual`."""
  return jnp.where(lse == jnp.finfo(lse.dtype).max, -jnp.inf, lse)
