"""Softmax attention by blocks as Rabe & Staats wrote it: `jax.checkpoint`.

A block of queries meets all blocks of keys, each of which is summarised by its
largest score m, Σ exp(score - m) and Σ exp(score - m) v; the summaries are then
joined. The backward pass is that of JAX, which recomputes each block.
"""

from typing import Any

import jax
import jax.numpy as jnp

from slim.kernels.softmax._blocks import Blocks
from slim.kernels.softmax._products import (
  finite_or_zero,
  mark,
  products,
  spread,
)
from slim.kernels.support.head_rows import from_head_rows
from slim.kernels.support.log_sum_exp import (
  finish_softmax,
  zero_if_neg_inf,
)
from slim.kernels.support.products import matmul_f32


def attend(
  blocks: Blocks,
  consts: tuple[Any, ...],
  q: jax.Array,
  k: jax.Array,
  v: jax.Array,
  bias: jax.Array | None,
) -> tuple[jax.Array, jax.Array]:
  """Computes y and lse of `chunked_softmax_attention_and_lse`.

  Args, Returns: as of `softmax_from_lse.attend`.

  References:
    Rabe & Staats, 2021, https://arxiv.org/abs/2112.05682, Figure 1.
  """
  rows, columns = blocks.rows, blocks.columns

  def query_block(i):
    q_block = blocks.q_scale * blocks.queries(q, k, i)

    def summarise(j):
      k_block, v_block = (blocks.keys(x, j) for x in (k, v))
      k_block, v_block = mark(k_block, v_block), finite_or_zero(v_block)
      scores = blocks.scores(
        consts[0],
        products(blocks.precision, q_block, k_block, consts[3]),
        blocks.bias(bias, i, j),
        i,
        j,
      )
      top = jax.lax.stop_gradient(scores.max(-1, keepdims=True))
      p = jnp.exp(scores - zero_if_neg_inf(top))
      kept = blocks.drop(consts[1], p, i, j).astype(v.dtype)
      num = matmul_f32(kept, v_block, (-1, -2), blocks.precision)
      return top, p.sum(-1, keepdims=True), num

    summarise = jax.checkpoint(summarise, prevent_cse=False)
    tops, totals, nums = jax.lax.map(summarise, _count(columns))
    top = tops.max(0)
    # What is NaN of a query would be NaN for all keys of a block, backward.
    shrink = jnp.where(
      top < jnp.inf, jnp.exp(tops - zero_if_neg_inf(top)[None]), 0
    )
    num = (shrink * nums).sum(0)
    total, lse = finish_softmax(top, (shrink * totals).sum(0))
    y_and_lse = spread(num / total, lse)
    return tuple(from_head_rows(x, q.shape[2]) for x in y_and_lse)

  y, lse = jax.lax.map(query_block, _count(rows))

  def join(x):
    """[n, B, s, H, X] as [B, T, H, X]; the last block reaches back."""
    num_full = rows.length // rows.size
    full = jnp.moveaxis(x[:num_full], 0, 1)
    shape = (full.shape[0], num_full * rows.size, *full.shape[3:])
    full = full.reshape(shape)
    rest = rows.length - num_full * rows.size
    return jnp.concatenate([full, x[-1, :, rows.size - rest :]], 1)

  return join(y).astype(v.dtype), join(lse)[..., 0]


def _count(axis):
  """The numbers of the blocks, of the dtype of their indices."""
  return jnp.arange(axis.num_blocks, dtype=jnp.int32)
