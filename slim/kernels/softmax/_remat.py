"""Chunked softmax attention with `jax.checkpoint`, as in Rabe & Staats.

Each block of queries meets all blocks of keys, and the results are joined by
their log-sum-exps. JAX differentiates it and recomputes each block.
"""

import jax
import jax.numpy as jnp

from slim.kernels.softmax._blocks import (
  Blocks,
  Inputs,
)
from slim.kernels.softmax._finite import stop_gradient_if_nan
from slim.kernels.support.head_rows import from_head_rows
from slim.kernels.support.online_softmax import Partial
from slim.kernels.support.opaque import tied


def attend_with_remat(
  blocks: Blocks, inputs: Inputs
) -> tuple[jax.Array, jax.Array]:
  """Computes chunked attention, differentiable to any order.

  Args:
    blocks: The static part.
    inputs: The arrays.

  Returns:
    y: [B, T, H, V], dtype of `v`.
    lse: [B, T, H], float32 or wider.

  References:
    Rabe & Staats, 2021, https://arxiv.org/abs/2112.05682, Figure 1.
  """
  grid = blocks.grid
  heads = inputs.heads
  arrays = inputs.q, inputs.k, inputs.v
  # Tied: else JAX may store the masks of all blocks.
  rows, columns = (
    # int32 as the token indices, also in 64-bit mode.
    tied(jnp.arange(axis.num_blocks, dtype=jnp.int32), arrays)
    for axis in (grid.rows, grid.columns)
  )

  def query_block(i):
    q_block = blocks.q_scale * grid.queries(inputs.q, heads, i)

    def key_block(j):
      return Partial.of(*blocks.scores_and_weigh(inputs, heads, q_block, i, j))

    key_block = jax.checkpoint(key_block, prevent_cse=False)
    partials = jax.lax.map(key_block, columns)
    y, lse = stop_gradient_if_nan(*partials.join_stacked().finish())
    y, lse = (from_head_rows(x, heads.num_heads) for x in (y, lse))
    return y, lse

  y, lse = jax.lax.map(query_block, rows)
  y, lse = _join_blocks(y, grid.rows), _join_blocks(lse, grid.rows)
  return y.astype(inputs.v.dtype), lse[..., 0]


def _join_blocks(x, axis):
  """[n, B, s, H, X] to [B, T, H, X]; the last block may overlap."""
  num_full = axis.length // axis.size
  full = jnp.moveaxis(x[:num_full], 0, 1)
  shape = (full.shape[0], num_full * axis.size, *full.shape[3:])
  full = full.reshape(shape)
  rest = axis.length - num_full * axis.size
  return jnp.concatenate([full, x[-1, :, axis.size - rest :]], 1)
