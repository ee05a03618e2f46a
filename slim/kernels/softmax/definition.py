"""Softmax attention with all scores at once, and merging by log-sum-exp.

  y_s = Σ_t p[s, t] v_t,   p[s, t] = exp(score[s, t]) / Σ_u exp(score[s, u]).

`slim.kernels.softmax._scores` defines the scores. A query whose keys are all
masked out has y = 0 and gradients of 0. NaN or inf in a key or value makes the
queries that see it NaN, and no others: see `slim.kernels.softmax._finite`.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from slim.kernels.softmax._arguments import (
  Arguments,
  BiasFn,
  IndexFn,
  check_attention,
)
from slim.kernels.softmax._finite import (
  finite_or_zero,
  nan_if_not_finite,
  query_key_products,
  stop_gradient_if_nan,
)
from slim.kernels.support.dtypes import promote
from slim.kernels.support.explicit_meshes import in_mesh_of_arguments
from slim.kernels.support.head_rows import (
  from_head_rows,
  to_head_rows,
)
from slim.kernels.support.not_inlined import checked_as_one
from slim.kernels.support.online_softmax import (
  Partial,
  softmax_and_lse,
)
from slim.kernels.support.products import matmul_f32


@in_mesh_of_arguments
@checked_as_one
def softmax_attention_and_lse(
  q: ArrayLike,
  k: ArrayLike,
  v: ArrayLike,
  bias: ArrayLike | None = None,
  mask: ArrayLike | None = None,
  *,
  scale: ArrayLike | None = None,
  is_causal: bool = False,
  local_window_size: int | tuple[int, int] | None = None,
  query_offset: ArrayLike = 0,
  mask_fn: IndexFn | None = None,
  bias_fn: BiasFn | None = None,
  bias_params: Any = None,
  dropout_rate: float = 0.0,
  dropout_keys: jax.Array | None = None,
  precision: jax.lax.PrecisionLike = None,
) -> tuple[jax.Array, jax.Array]:
  """Computes softmax attention with all scores at once.

  Args:
    q: [B, T, H, K], float. Queries.
    k: [B, S, G, K], float. Keys. G divides H; H/G query heads share a key head.
    v: [B, S, G, V], float. Values.
    bias: Float, broadcastable to [B, H, T, S]. Added to the scores. A query
      does not see a key where it is -inf.
    mask: Boolean, broadcastable to [B, H, T, S]. True where a query sees a key.
    scale: Factor of q · k: a number, or an array [], which is differentiated.
      Default: 1 / √K.
    is_causal: Whether query s sees key t only if t ≤ s + query_offset.
    local_window_size: (left, right), or one number for both, 0 or larger.
      Query s sees keys from s + query_offset - left to
      s + query_offset + right.
    query_offset: Position of the first query among the keys: an integer, or
      integers [B] if it differs per sequence, as with caches.
    mask_fn: `mask_fn(q_index, k_index)`, a mask from positions. It is called
      with int32 indices [s, 1] and [1, t] of some queries and keys and returns
      booleans broadcastable to [B, H, s, t]. It may close over arrays, as in
      `lambda i, j: j < lengths[:, None, None, None]`. Indices count from 0 in q
      and in k, without query_offset.
    bias_fn: `bias_fn(bias_params, q_index, k_index)`, a bias from positions,
      called likewise.
    bias_params: Pytree of arrays, the first argument of `bias_fn`. It is
      differentiated, and so is what `bias_fn` closes over.
    dropout_rate: Probability to drop a pair, in [0, 1). It must be known when
      the function is traced.
    dropout_keys: [B], PRNG keys of any implementation, one per sequence. Which
      pairs are dropped depends only on (key, head, query, key index). Default:
      no dropout.
    precision: Precision of the products, as in `jax.lax.dot_general`.

  Returns:
    y: [B, T, H, V], dtype of `v`. Sums are computed in float32 or wider.
    lse: [B, T, H], float32 or wider. The log-sum-exp of the scores of a query,
      -inf if it sees no key. Pass it to `merge_attention`. It is
      differentiable, unlike the residual of `jax.nn.dot_product_attention`.

  Raises:
    ValueError: If an argument has the wrong shape, dtype or value.

  Memory beyond inputs and outputs: O(B·H·T·S).

  References:
    Vaswani et al., 2017, https://arxiv.org/abs/1706.03762, equation 1.
  """
  return _attend(
    check_attention(
      Arguments(
        q,
        k,
        v,
        bias,
        mask,
        scale=scale,
        is_causal=is_causal,
        local_window_size=local_window_size,
        query_offset=query_offset,
        mask_fn=mask_fn,
        bias_fn=bias_fn,
        bias_params=bias_params,
        dropout_rate=dropout_rate,
        dropout_keys=dropout_keys,
        precision=precision,
      )
    )
  )


def _attend(attention):
  q, k, v = attention.q, attention.k, attention.v
  num_heads, num_groups = q.shape[2], k.shape[2]
  precision = attention.precision
  q_rows = to_head_rows(attention.q_scale * q, num_groups)
  k_rows = to_head_rows(nan_if_not_finite(k, v), num_groups)
  index = [jnp.arange(x.shape[1], dtype=jnp.int32) for x in (q, k)]
  products = query_key_products(precision, q_rows, k_rows, attention.scale)
  terms = attention.make_terms(attention.bias, *index)
  p, lse = softmax_and_lse(
    terms.scores(products, attention.product_scale, q.shape[1])
  )
  if attention.dropout_scale is not None:
    p *= attention.dropout_scale(*index).reshape(p.shape).astype(p.dtype)
  v_rows = to_head_rows(finite_or_zero(v), num_groups)
  y = matmul_f32(p.astype(v.dtype), v_rows, (-1, -2), precision)
  y, lse = stop_gradient_if_nan(y.astype(attention.dtype), lse)
  return from_head_rows(y, num_heads), from_head_rows(lse, num_heads)[..., 0]


@in_mesh_of_arguments
@checked_as_one
def softmax_attention(
  q: ArrayLike,
  k: ArrayLike,
  v: ArrayLike,
  bias: ArrayLike | None = None,
  mask: ArrayLike | None = None,
  **settings: Any,
) -> jax.Array:
  """Computes softmax attention with all scores at once, without log-sum-exp.

  A drop-in replacement for `jax.nn.dot_product_attention`: bias, mask, scale,
  is_causal and local_window_size have the same meaning.

  Args:
    q: [B, T, H, K], float. Queries.
    k: [B, S, G, K], float. Keys.
    v: [B, S, G, V], float. Values.
    bias: Broadcastable to [B, H, T, S].
    mask: Broadcastable to [B, H, T, S].
    **settings: The other arguments of `softmax_attention_and_lse`.

  Returns:
    [B, T, H, V], dtype of `v`.

  Raises:
    ValueError: If an argument has the wrong shape, dtype or value.
  """
  return softmax_attention_and_lse(q, k, v, bias, mask, **settings)[0]


@in_mesh_of_arguments
@checked_as_one
def merge_attention(
  pieces: Sequence[tuple[jax.Array, jax.Array]],
) -> tuple[jax.Array, jax.Array]:
  """Merges attention of the same queries to disjoint sets of keys.

  y = Σ_i exp(lse_i - lse) y_i,   lse = log Σ_i exp(lse_i).

  Args:
    pieces: The (y, lse) of each set of keys, as returned by
      `softmax_attention_and_lse`: [B, T, H, V] and [B, T, H].

  Returns:
    y: [B, T, H, V], dtype of the given y; the attention to all keys.
    lse: [B, T, H], float32 or wider.

  Raises:
    ValueError: If there are no pieces, or their shapes differ.

  Memory beyond inputs and outputs: O(n·B·T·H·V) for n pieces.
  """
  if not pieces:
    raise ValueError("pieces must have at least one (y, lse), got none")
  for y, lse in pieces:
    if y.shape != pieces[0][0].shape or lse.shape != y.shape[:-1]:
      raise ValueError(
        "pieces must have y [B, T, H, V] of one shape and lse [B, T, H], got "
        f"{y.shape} and {lse.shape} after {pieces[0][0].shape}"
      )
  ys, lses = (jnp.stack(x) for x in zip(*pieces, strict=True))
  lses = lses.astype(promote(ys.dtype, lses.dtype))[..., None]
  # y_i is Σ exp(score - lse_i) v, so lse_i may stand for the largest score.
  partials = Partial(lses, jnp.ones_like(lses), ys.astype(lses.dtype))
  y, lse = stop_gradient_if_nan(*partials.join_stacked().finish())
  return y.astype(ys.dtype), lse[..., 0]
