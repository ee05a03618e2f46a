"""Softmax in pieces: sums of exp(score - top), where there may be no score.

A query that sees no key has scores of -inf alone. Its sum is to be 0, its
log-sum-exp -inf and its derivatives 0, and nothing on the way NaN.
"""

import jax
import jax.numpy as jnp


def finite(top: jax.Array) -> jax.Array:
  """The largest score, or 0 where there is none: exp(-inf - 0) = 0."""
  return jnp.where(top == -jnp.inf, 0, top)


def close(top: jax.Array, total: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Ends a sum of exponentials.

  Args:
    top: The largest score, or -inf.
    total: Σ exp(score - finite(top)).

  Returns:
    What to divide by: total, or 1 where it is 0; and the log-sum-exp.
  """
  sees = total > 0
  total = jnp.where(sees, total, 1)
  return total, jnp.where(sees, top + jnp.log(total), -jnp.inf)


def to_residual(lse: jax.Array) -> jax.Array:
  """A log-sum-exp with a finite number for -inf, which JAX may check for."""
  return jnp.where(lse == -jnp.inf, jnp.finfo(lse.dtype).max, lse)


def from_residual(lse: jax.Array) -> jax.Array:
  """Undoes `to_residual`."""
  return jnp.where(lse == jnp.finfo(lse.dtype).max, -jnp.inf, lse)
