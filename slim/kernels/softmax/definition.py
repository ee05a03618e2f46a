"""Softmax attention, as its definition says: with all scores at once.

  y_s = Σ_t p[s, t] v_t,   p[s, t] = exp(score[s, t]) / Σ_u exp(score[s, u]).

`slim.kernels.softmax._scores` says what the scores are made of. A query whose
keys are all masked out has y = 0, and gradients of 0. NaN or inf in a key or
value makes NaN of the queries that see it, and of no others: see
`slim.kernels.softmax._products`.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from slim.kernels.softmax._arguments import check_attention
from slim.kernels.softmax._products import (
  finite_or_zero,
  mark,
  products,
  spread,
)
from slim.kernels.support.dtypes import promote
from slim.kernels.support.explicit_meshes import in_mesh_of_arguments
from slim.kernels.support.head_rows import (
  from_head_rows,
  to_head_rows,
)
from slim.kernels.support.log_sum_exp import (
  finish_softmax,
  zero_if_neg_inf,
)
from slim.kernels.support.not_inlined import checked_as_one
from slim.kernels.support.products import matmul_f32


@in_mesh_of_arguments
@checked_as_one
def softmax_attention_and_lse(
  q: jax.Array,
  k: jax.Array,
  v: jax.Array,
  bias: jax.Array | None = None,
  mask: jax.Array | None = None,
  *,
  scale: jax.Array | float | None = None,
  is_causal: bool = False,
  local_window_size: int | tuple[int, int] | None = None,
  query_offset: jax.Array | int = 0,
  mask_fn: Callable[[jax.Array, jax.Array], jax.Array] | None = None,
  bias_fn: Callable[[Any, jax.Array, jax.Array], jax.Array] | None = None,
  bias_params: Any = None,
  dropout_rate: float = 0.0,
  dropout_keys: jax.Array | None = None,
  precision: Any = None,
) -> tuple[jax.Array, jax.Array]:
  """Softmax attention with all scores at once: the plain definition.

  Args:
    q: [B, T, H, K], float. Queries.
    k: [B, S, N, K], float. Keys; N divides H, and H / N query heads share one.
    v: [B, S, N, V], float. Values.
    bias: Added to the scores, float; it broadcasts to [B, H, T, S]. Where it is
      -inf, the query does not see the key.
    mask: Boolean, True where a query sees a key; it broadcasts likewise.
    scale: Of q · k: a number, or an array [], which may be differentiated;
      None: 1 / √K.
    is_causal: Whether query s sees key t only for t ≤ s + query_offset.
    local_window_size: (left, right), or one number for both, from 0 and of any
      size: query s sees keys from s + query_offset - left to
      s + query_offset + right.
    query_offset: Where among the keys the first query stands: an integer, or
      integers [B], one a sequence, as for caches of different lengths.
    mask_fn: `mask_fn(q_index, k_index)` for indices [s, 1] and [1, t], int32,
      of any queries and keys: a mask that broadcasts to [B, H, s, t]. It may
      close over arrays, as `lambda i, j: j < lengths[:, None, None, None]`.
      Indices count from 0 in q and in k: query_offset is not added.
    bias_fn: `bias_fn(bias_params, q_index, k_index)`, a bias, likewise.
    bias_params: Pytree of arrays, differentiated as what `bias_fn` closes over.
    dropout_rate: Probability that a pair is dropped, in [0, 1), known when
      the function is traced.
    dropout_keys: [B], PRNG keys of any implementation, one a sequence; None: no
      dropout. Which pairs drop depends on (key, head, query, key index) alone.
    precision: Of the matrix products, as of `jax.lax.dot_general`.

  Returns:
    y: [B, T, H, V], dtype of `v`. Sums are formed in float32 or wider.
    lse: [B, T, H], float32 or wider: the log-sum-exp of a query's scores, -inf
      where it sees no key; see `merge_attention`. It is differentiated, unlike
      the residual of `jax.nn.dot_product_attention`.

  Raises:
    ValueError: If an argument has another shape, type or range.

  Memory beyond inputs and outputs: O(B·H·T·S).

  References:
    Vaswani et al., 2017, https://arxiv.org/abs/1706.03762, equation 1.
  """
  # By name: none of so many is taken for another.
  attention = check_attention(**locals())
  dtype = promote(v.dtype)
  q, k, v, bias, scale, q_scale, _, score, dropout_scale, precision = attention
  index = [jnp.arange(x.shape[1], dtype=jnp.int32) for x in (q, k)]
  heads = k.shape[2], q.shape[2] // k.shape[2]
  q_rows = to_head_rows(q_scale * q, heads)
  k_rows = to_head_rows(mark(k, v))
  scores = score(products(precision, q_rows, k_rows, scale), bias, *index)
  top = jax.lax.stop_gradient(scores.max(-1, keepdims=True))
  exponentials = jnp.exp(scores - zero_if_neg_inf(top))
  total, lse = finish_softmax(top, exponentials.sum(-1, keepdims=True))
  p = exponentials / total
  if dropout_scale is not None:
    p *= dropout_scale(*index).reshape(p.shape).astype(p.dtype)
  v_rows = to_head_rows(finite_or_zero(v))
  y = matmul_f32(p.astype(v.dtype), v_rows, (-1, -2), precision).astype(dtype)
  y, lse = spread(y, lse)
  num_heads = q.shape[2]
  return from_head_rows(y, num_heads), from_head_rows(lse, num_heads)[..., 0]


@in_mesh_of_arguments
@checked_as_one
def softmax_attention(
  q: jax.Array,
  k: jax.Array,
  v: jax.Array,
  bias: jax.Array | None = None,
  mask: jax.Array | None = None,
  **settings: Any,
) -> jax.Array:
  """The y of `softmax_attention_and_lse` alone; `settings` are its other ones.

  It stands where `jax.nn.dot_product_attention` does: bias, mask, scale,
  is_causal and local_window_size mean the same.
  """
  return softmax_attention_and_lse(q, k, v, bias, mask, **settings)[0]


@in_mesh_of_arguments
@checked_as_one
def merge_attention(
  pieces: list[tuple[jax.Array, jax.Array]],
) -> tuple[jax.Array, jax.Array]:
  """Merges attentions of the same queries to different keys.

  y = Σ_i exp(lse_i - lse) y_i,   lse = log Σ_i exp(lse_i).

  Args:
    pieces: What `softmax_attention_and_lse` returns for each set of keys: y
      [B, T, H, V] and lse [B, T, H].

  Returns:
    y and lse of the attention to all of the keys.
  """
  ys, lses = (jnp.stack(x) for x in zip(*pieces, strict=True))
  lses = lses.astype(promote(ys.dtype, lses.dtype))
  top = jax.lax.stop_gradient(lses.max(0))
  weights = jnp.exp(lses - zero_if_neg_inf(top)[None])
  total, lse = finish_softmax(top, weights.sum(0))
  y = (weights[..., None] * ys.astype(lse.dtype)).sum(0) / total[..., None]
  return y.astype(ys.dtype), lse
