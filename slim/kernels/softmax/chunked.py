"""Softmax attention by blocks: no score is kept, whatever the length."""

from collections.abc import Callable
from typing import Any

import jax

from slim.kernels.softmax import (
  _from_lse as softmax_from_lse,
)
from slim.kernels.softmax import (
  _remat as softmax_remat,
)
from slim.kernels.softmax._arguments import check_attention
from slim.kernels.softmax._blocks import cut
from slim.kernels.support.dtypes import promote
from slim.kernels.support.explicit_meshes import in_mesh_of_arguments
from slim.kernels.support.not_inlined import checked_as_one
from slim.kernels.support.shapes import check_positive_int

_BACKWARD = {
  "from_lse": softmax_from_lse.attend,
  "remat": softmax_remat.attend,
}


@in_mesh_of_arguments
@checked_as_one
def chunked_softmax_attention_and_lse(
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
  q_block_size: int = 512,
  k_block_size: int | None = None,
  backward: str = "from_lse",
) -> tuple[jax.Array, jax.Array]:
  """Softmax attention by blocks, in memory that is linear in T and S.

  Args:
    q: [B, T, H, K], float. Queries.
    k: [B, S, N, K], float. Keys; N divides H, and H / N query heads share one.
    v: [B, S, N, V], float. Values.
    bias: As of `softmax_attention_and_lse`, and so on until `precision`.
    mask: A mask or a bias is never cut but by blocks: one that need not be
      there, as an array, is better a `mask_fn` or `bias_fn`.
    scale: See there.
    is_causal: See there.
    local_window_size: See there.
    query_offset: See there.
    mask_fn: See there.
    bias_fn: See there.
    bias_params: See there.
    dropout_rate: See there.
    dropout_keys: See there.
    precision: See there.
    q_block_size: Queries in a block; need not divide T.
    k_block_size: Keys in a block; need not divide S. None: 1024 for one head of
      one sequence, else 512, so that the scores of a block stay in the cache;
      chosen on a CPU, by experiments/softmax_blocks.py.
    backward: How the gradient knows the probabilities: "from_lse" forms each
      block anew from the log-sum-exp, in first derivatives only; "remat" is
      `jax.checkpoint` of each block, the paper's way, slower and in more
      memory, with derivatives of any order and no block skipped.

  Returns:
    y: [B, T, H, V], dtype of `v`. Sums are formed in float32 or wider.
    lse: [B, T, H], float32 or wider; as of `softmax_attention_and_lse`.

  Raises:
    ValueError: If an argument has another shape, type or range, or a second
      derivative is asked for.
    TypeError: In forward mode, `jax.jvp`; `softmax_attention` and "remat"
      have it.

  Memory of the gradient beyond inputs and outputs: y and lse, and a few blocks
  of scores, O(B·H·q_block_size·k_block_size).

  References:
    Rabe & Staats, 2021, https://arxiv.org/abs/2112.05682;
    Dao, 2023 (FlashAttention-2), https://arxiv.org/abs/2307.08691, for the
    backward pass from the log-sum-exp.
  """
  of_all = dict(locals())
  for name in ("q_block_size", "k_block_size", "backward"):
    del of_all[name]
  attention = check_attention(**of_all)
  if k_block_size is None:
    batch, _, num_heads, _ = attention.q.shape
    k_block_size = 1024 if batch * num_heads == 1 else 512
  blocks, consts = cut(
    attention,
    check_positive_int("q_block_size", q_block_size),
    check_positive_int("k_block_size", k_block_size),
  )
  if backward not in _BACKWARD:
    raise ValueError(
      f"backward must be one of {tuple(_BACKWARD)}, got {backward!r}"
    )
  y, lse = _BACKWARD[backward](blocks, consts, *attention[:4])
  return y.astype(promote(v.dtype)), lse


@in_mesh_of_arguments
@checked_as_one
def chunked_softmax_attention(
  q: jax.Array,
  k: jax.Array,
  v: jax.Array,
  bias: jax.Array | None = None,
  mask: jax.Array | None = None,
  **settings: Any,
) -> jax.Array:
  """The y of `chunked_softmax_attention_and_lse` alone, whose settings it has.

  It stands where `jax.nn.dot_product_attention` does: bias, mask, scale,
  is_causal and local_window_size mean the same.
  """
  return chunked_softmax_attention_and_lse(q, k, v, bias, mask, **settings)[0]
