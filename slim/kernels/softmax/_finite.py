"""Contain NaN and inf in queries, keys and values.

A masked key may hold anything, for example uninitialised memory of a cache.
Its weight is 0, but 0 · NaN is NaN. So every product that sums over tokens uses
`finite_or_zero` of its vectors, and NaN reaches a query only through its
scores, where a mask can hide it:

  score[s, t] = NaN if q_s, k_t or v_t is not finite, -inf if t is masked out.

A query with a score of NaN has NaN for y, log-sum-exp and gradient. It adds
nothing to the gradients of keys and values with finite scores.
"""

from functools import partial

import jax
import jax.numpy as jnp

from slim.kernels.support.products import matmul_f32


def finite_or_zero(x: jax.Array) -> jax.Array:
  """Replaces NaN and inf by 0."""
  return jnp.where(jnp.isfinite(x), x, 0)


def nan_if_not_finite(k: jax.Array, v: jax.Array) -> jax.Array:
  """Sets keys to NaN where they, or their values, are not finite.

  An inf becomes NaN, because its score may be -inf, which would look masked.

  Args:
    k: [..., K].
    v: [..., V].

  Returns:
    [..., K].
  """
  is_finite = jnp.isfinite(k) & jnp.isfinite(v).all(-1, keepdims=True)
  return jnp.where(is_finite, k, jnp.nan)


def stop_gradient_if_nan(
  y: jax.Array, lse: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """Stops the gradient of queries with a score of NaN.

  Args:
    y: [..., V].
    lse: [..., 1].

  Returns:
    The same values, constant where `lse` is NaN.
  """
  constants = jax.lax.stop_gradient((y, lse))
  is_nan = jnp.isnan(constants[1])
  return jax.tree.map(
    lambda constant, x: jnp.where(is_nan, constant, x), constants, (y, lse)
  )


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def query_key_products(
  precision: jax.lax.PrecisionLike,
  q: jax.Array,
  k: jax.Array,
  scale: jax.Array | None,
) -> jax.Array:
  """Computes scale · q kᵀ.

  Args:
    precision: Of the matrix product.
    q: [B, G, s, K].
    k: [B, G, t, K].
    scale: [], or None for 1.

  Returns:
    [B, G, s, t], float32 or wider. Its derivatives are those of
    `finite_or_zero` queries and keys.
  """
  # As in `nan_if_not_finite`: the score of an inf may be -inf.
  q = jnp.where(jnp.isfinite(q), q, jnp.nan)
  return _scaled(precision, q, k, scale)


@query_key_products.defjvp
def _query_key_products_jvp(precision, primals, tangents):
  q, k, scale = primals
  q_dot, k_dot, scale_dot = tangents
  finite_q, finite_k = finite_or_zero(q), finite_or_zero(k)
  dot = _scaled(precision, q_dot, finite_k, scale)
  dot += _scaled(precision, finite_q, k_dot, scale)
  if scale is not None:
    dot += _scaled(precision, finite_q, finite_k, scale_dot)
  return query_key_products(precision, q, k, scale), dot


def _scaled(precision, q, k, scale):
  x = matmul_f32(q, k, (-1, -1), precision)
  return x if scale is None else scale * x
