"""Softmax attention computed block by block, in memory linear in the length."""

from typing import Any

import jax
from jax.typing import ArrayLike

from slim.kernels.softmax._arguments import (
  Arguments,
  BiasFn,
  IndexFn,
  check_attention,
)
from slim.kernels.softmax._blocks import split_into_blocks
from slim.kernels.softmax._from_lse import attend_from_lse
from slim.kernels.softmax._remat import attend_with_remat
from slim.kernels.support.explicit_meshes import in_mesh_of_arguments
from slim.kernels.support.not_inlined import checked_as_one
from slim.kernels.support.shapes import check_positive_int

_BACKWARD = {"from_lse": attend_from_lse, "remat": attend_with_remat}


@in_mesh_of_arguments
@checked_as_one
def chunked_softmax_attention_and_lse(
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
  q_block_size: int = 512,
  k_block_size: int | None = None,
  backward: str = "from_lse",
) -> tuple[jax.Array, jax.Array]:
  """Computes softmax attention block by block, in memory linear in T and S.

  The arguments up to `precision` are those of `softmax_attention_and_lse`,
  which describes them in full.

  Args:
    q: [B, T, H, K], float. Queries.
    k: [B, S, G, K], float. Keys. G divides H; H/G query heads share a key head.
    v: [B, S, G, V], float. Values.
    bias: Float, broadcastable to [B, H, T, S]. It is sliced block by block. If
      you can compute it from positions, pass `bias_fn` and save its memory.
    mask: Boolean, broadcastable to [B, H, T, S]. It is sliced block by block.
      If you can compute it from positions, pass `mask_fn` and save its memory.
    scale: Factor of q · k. Default: 1 / √K.
    is_causal: Whether query s sees key t only if t ≤ s + query_offset.
    local_window_size: (left, right), or one number for both.
    query_offset: Position of the first query among the keys, [] or [B].
    mask_fn: `mask_fn(q_index, k_index)`, a mask from positions.
    bias_fn: `bias_fn(bias_params, q_index, k_index)`, a bias from positions.
    bias_params: Pytree of arrays, the first argument of `bias_fn`.
    dropout_rate: Probability to drop a pair, in [0, 1).
    dropout_keys: [B], PRNG keys, one per sequence. Default: no dropout.
    precision: Precision of the products, as in `jax.lax.dot_general`.
    q_block_size: Queries in a block. Need not divide T.
    k_block_size: Keys in a block. Need not divide S. Default: 1024 for one head
      of one sequence, else 512, so that the scores of a block fit the cache.
      Chosen on a CPU, with experiments/softmax_blocks.py.
    backward: How the backward pass recovers the attention weights. "from_lse"
      recomputes each block from the log-sum-exp and has first derivatives
      only. "remat" applies `jax.checkpoint` to each block, as in Rabe & Staats.
      JAX then sums gradients over blocks in the dtypes of the arguments.
      It is slower, needs more memory and skips no block, but has derivatives
      of any order.

  Returns:
    y: [B, T, H, V], dtype of `v`. Sums are computed in float32 or wider.
    lse: [B, T, H], float32 or wider. The log-sum-exp of the scores of a query,
      -inf if it sees no key.

  Raises:
    ValueError: If an argument has the wrong shape, dtype or value, or if
      "from_lse" is differentiated twice.
    TypeError: If "from_lse" is differentiated in forward mode, as in `jax.jvp`.
      Use "remat" or `softmax_attention`.

  Memory of the gradient beyond inputs and outputs: y and lse, and a few blocks
  of scores, O(B·H·q_block_size·k_block_size). On a CPU, "from_lse" computes one
  head after the other if all share the same mask and bias, there is no dropout
  and a block has 2¹⁶ scores: O(q_block_size·k_block_size).

  References:
    Rabe & Staats, 2021, https://arxiv.org/abs/2112.05682;
    Dao, 2023 (FlashAttention-2), https://arxiv.org/abs/2307.08691, for the
    backward pass from the log-sum-exp.
  """
  attention = check_attention(
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
  if k_block_size is None:
    batch_size, _, num_heads, _ = attention.q.shape
    k_block_size = 1024 if batch_size * num_heads == 1 else 512
  q_block_size = check_positive_int("q_block_size", q_block_size)
  k_block_size = check_positive_int("k_block_size", k_block_size)
  if backward not in _BACKWARD:
    raise ValueError(
      f"backward must be one of {tuple(_BACKWARD)}, got {backward!r}"
    )
  blocks, inputs = split_into_blocks(attention, q_block_size, k_block_size)
  y, lse = _BACKWARD[backward](blocks, inputs)
  return y.astype(attention.dtype), lse


@in_mesh_of_arguments
@checked_as_one
def chunked_softmax_attention(
  q: ArrayLike,
  k: ArrayLike,
  v: ArrayLike,
  bias: ArrayLike | None = None,
  mask: ArrayLike | None = None,
  **settings: Any,
) -> jax.Array:
  """Computes softmax attention block by block, without log-sum-exp.

  A drop-in replacement for `jax.nn.dot_product_attention`: bias, mask, scale,
  is_causal and local_window_size have the same meaning.

  Args:
    q: [B, T, H, K], float. Queries.
    k: [B, S, G, K], float. Keys.
    v: [B, S, G, V], float. Values.
    bias: Broadcastable to [B, H, T, S].
    mask: Broadcastable to [B, H, T, S].
    **settings: The other arguments of `chunked_softmax_attention_and_lse`.

  Returns:
    [B, T, H, V], dtype of `v`.

  Raises:
    ValueError: If an argument has the wrong shape, dtype or value.
  """
  return chunked_softmax_attention_and_lse(q, k, v, bias, mask, **settings)[0]
