"""Chunked softmax attention with a backward pass from the log-sum-exp.

Each block of queries walks over the blocks of keys with an online softmax. Only
y and each query's log-sum-exp are kept for the backward pass, which recomputes
the probabilities: see `_cotangents.py`. Both passes skip blocks that no query
sees.
"""

from functools import partial

import jax
import jax.numpy as jnp

from slim.kernels.softmax._blocks import Blocks, Inputs
from slim.kernels.softmax._cotangents import pull_back
from slim.kernels.softmax._slices import merge_heads, set_heads, split_heads
from slim.kernels.softmax._turns import for_all_heads
from slim.kernels.softmax._walk import Walk
from slim.kernels.support.custom_derivative import first_order_vjp
from slim.kernels.support.dtypes import at_least_float32
from slim.kernels.support.head_rows import from_head_rows
from slim.kernels.support.mesh_axes import varying_full
from slim.kernels.support.online_softmax import (
  Partial,
  from_residual,
  to_residual,
)


def attend_from_lse(
  blocks: Blocks, inputs: Inputs
) -> tuple[jax.Array, jax.Array]:
  """Computes chunked attention, with first derivatives in reverse mode only.

  Args:
    blocks: The static part.
    inputs: The arrays.

  Returns:
    y: [B, T, H, V], dtype of `v`.
    lse: [B, T, H], float32 or wider.
  """
  return _attend(blocks, inputs)


def attend_forward(
  blocks: Blocks, inputs: Inputs
) -> tuple[tuple[jax.Array, jax.Array], tuple[Inputs, jax.Array, jax.Array]]:
  """Returns (y, lse) as `attend_from_lse`, and what the backward pass needs."""
  q, v = inputs.q, inputs.v
  dtype = at_least_float32(q.dtype, v.dtype)
  unseen = (
    varying_full((*q.shape[:3], v.shape[-1]), 0, v.dtype, like=q),
    varying_full((*q.shape[:3], 1), -jnp.inf, dtype, like=q),
  )
  y, lse = for_all_heads(
    partial(_attend_heads, blocks),
    blocks,
    inputs,
    tuple(map(merge_heads, unseen)),
  )
  y, lse = split_heads(y, v.shape[-1]), split_heads(lse, 1)[..., 0]
  return (y, lse), (inputs, y, to_residual(lse))


def _attend_heads(blocks, heads, outputs, inputs):
  """Sets y and the log-sum-exp of some heads, those of `merge_heads`."""
  grid, dtype = blocks.grid, outputs[1].dtype
  like = grid.queries(inputs.q, heads, 0)
  shape = like.shape[:3]
  nothing = Partial(
    varying_full((*shape, 1), -jnp.inf, dtype, like=like),
    varying_full((*shape, 1), 0, dtype, like=like),
    varying_full((*shape, inputs.v.shape[-1]), 0, dtype, like=like),
  )

  def visit(i, j, is_first, carry):
    so_far, outputs = carry
    so_far = jax.tree.map(partial(jnp.where, is_first), nothing, so_far)
    q_block = blocks.q_scale * grid.queries(inputs.q, heads, i)
    so_far = so_far.extend(
      *blocks.scores_and_weigh(inputs, heads, q_block, i, j)
    )
    # All but the last visit of a row set what the next one replaces.
    outputs = tuple(
      set_heads(
        whole,
        from_head_rows(x, heads.num_heads),
        heads.of_queries(grid.rows.start(i)),
      )
      for whole, x in zip(outputs, so_far.finish(), strict=True)
    )
    return so_far, outputs

  limits = blocks.limits or inputs.window.limits()
  walk = Walk.along_rows(grid, limits, inputs.window.end)
  return walk.run(visit, (nothing, outputs), inputs.q)[1]


def _backward(blocks, residuals, cotangents):
  inputs, y, lse = residuals
  return (pull_back(blocks, inputs, y, from_residual(lse), *cotangents),)


_attend = first_order_vjp(
  attend_forward,
  _backward,
  lambda blocks: (
    "chunked_softmax_attention has first derivatives only; for a second "
    "derivative take softmax_attention, or backward='remat'"
  ),
)
