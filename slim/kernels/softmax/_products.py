"""Products of queries and keys beside values that are not finite.

A mask hides a key with NaN or inf from some queries or from all of them. Their
probabilities of it are 0, but 0 · NaN is NaN. So each product that sums over
tokens takes `finite_or_zero` of its vectors, and NaN reaches a query by its
scores alone, where a mask can hide it:

  score[s, t] = NaN if q_s, k_t or v_t is not finite, -inf if t is hidden.

A query with a score of NaN has a y, a log-sum-exp and a gradient of NaN. It
adds nothing to the gradients of keys and values with finite scores.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from slim.kernels.support.products import matmul_f32


def finite_or_zero(x: jax.Array) -> jax.Array:
  """`x` with 0 in place of NaN and inf."""
  return jnp.where(jnp.isfinite(x), x, 0)


def mark(k: jax.Array, v: jax.Array) -> jax.Array:
  """Mark keys that are not finite, or whose values are not.

  Args:
    k: [..., K].
    v: [..., V].

  Returns:
    `k`, with NaN for each token at which `k` or `v` has NaN or inf. An inf is
    NaN, as its score may be -inf, which the backward pass would not know.
  """
  is_finite = jnp.isfinite(k) & jnp.isfinite(v).all(-1, keepdims=True)
  return jnp.where(is_finite, k, jnp.nan)


def spread(y: jax.Array, lse: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Make queries with a score of NaN constant, so that cotangents stop there.

  Args:
    y: [..., V].
    lse: [..., 1].

  Returns:
    The same values, without derivatives where `lse` is NaN.
  """
  constants = jax.lax.stop_gradient((y, lse))
  wrong = jnp.isnan(constants[1])
  return tuple(
    jnp.where(wrong, constant, x)
    for constant, x in zip(constants, (y, lse), strict=True)
  )


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def products(
  precision: Any, q: jax.Array, k: jax.Array, scale: jax.Array | None
) -> jax.Array:
  """Multiply queries and keys: scale · q kᵀ.

  Args:
    precision: Of the matrix product.
    q: [B, N, s, K].
    k: [B, N, t, K].
    scale: [], or None for 1.

  Returns:
    [B, N, s, t], float32 or wider. Its derivatives are those of
    `finite_or_zero` queries and keys.
  """
  return _scaled(precision, q, k, scale)


@products.defjvp
def _products_jvp(precision, primals, tangents):
  q, k, scale = primals
  q_dot, k_dot, scale_dot = tangents
  finite_q, finite_k = finite_or_zero(q), finite_or_zero(k)
  dot = _scaled(precision, q_dot, finite_k, scale)
  dot += _scaled(precision, finite_q, k_dot, scale)
  if scale is not None:
    dot += _scaled(precision, finite_q, finite_k, scale_dot)
  return products(precision, q, k, scale), dot


def _scaled(precision, q, k, scale):
  x = matmul_f32(q, k, (-1, -1), precision)
  return x if scale is None else scale * x
