"""Chunked softmax attention with a backward pass from the log-sum-exp.

Forward, each block of queries walks over the blocks of keys with an online
softmax. Only y and each query's log-sum-exp are kept for the backward pass,
which recomputes the probabilities of a block, p = exp(score - lse):

  v_ct = pᵀ y_ct,   score_ct = p · (y_ct vᵀ - y_ct · y + lse_ct),

and pulls score_ct back through whatever the scores are made of. Both passes
skip blocks that no query sees.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from slim.kernels.softmax._blocks import (
  Blocks,
  Inputs,
)
from slim.kernels.softmax._finite import (
  finite_or_zero,
  query_key_products,
)
from slim.kernels.softmax._slices import add_to_heads, add_to_slice, set_heads
from slim.kernels.softmax._turns import for_all_heads
from slim.kernels.softmax._walk import Walk
from slim.kernels.support.cotangents import inexact_leaves
from slim.kernels.support.custom_derivative import (
  add_to_sum,
  first_order_vjp,
  zeros_for_sum,
)
from slim.kernels.support.dtypes import at_least_float32
from slim.kernels.support.head_rows import from_head_rows
from slim.kernels.support.mesh_axes import varying_full
from slim.kernels.support.online_softmax import (
  Partial,
  from_residual,
  to_residual,
)
from slim.kernels.support.products import matmul_f32


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


def _forward(blocks, inputs):
  """Returns (y, lse), and what the backward pass needs."""
  q, v = inputs.q, inputs.v
  dtype = at_least_float32(q.dtype, v.dtype)
  unseen = (
    varying_full((*q.shape[:3], v.shape[-1]), 0, v.dtype, like=q),
    varying_full((*q.shape[:3], 1), -jnp.inf, dtype, like=q),
  )
  y, lse = for_all_heads(partial(_attend_heads, blocks), blocks, inputs, unseen)
  lse = lse[..., 0]
  return (y, lse), (inputs, y, to_residual(lse))


def _attend_heads(blocks, heads, outputs, inputs):
  """Sets y and the log-sum-exp of some heads."""
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

  walk = Walk.along_rows(grid, blocks.limits or inputs.window.limits())
  return walk.run(visit, (nothing, outputs), inputs.q)[1]


def _backward(blocks, residuals, cotangents):
  inputs, y, lse = residuals
  return (pull_back(blocks, inputs, y, from_residual(lse), *cotangents),)


def pull_back(
  blocks: Blocks,
  inputs: Inputs,
  y: jax.Array,
  lse: jax.Array,
  y_ct: jax.Array,
  lse_ct: jax.Array,
) -> tuple[Any, ...]:
  """Differentiates attention, given its results.

  Args:
    blocks: The static part.
    inputs: The arrays. They may have only some of the keys.
    y: [B, T, H, V], the attention to all keys.
    lse: [B, T, H], its log-sum-exp.
    y_ct: The cotangent of `y`.
    lse_ct: The cotangent of `lse`.

  Returns:
    The cotangents of the inexact leaves of `inputs`, float32 or wider, or None
    for those that are None.
  """
  zeros_like = partial(zeros_for_sum, like=inputs.q)
  # score_ct = p · (y_ct vᵀ - shift).
  shift = jnp.sum(y_ct.astype(lse.dtype) * y.astype(lse.dtype), -1) - lse_ct
  # A query with a score of NaN has a gradient of NaN. It must add nothing to
  # the gradients of keys and values, like a query that sees nothing: an lse of
  # inf makes exp(score - lse) zero.
  lse, shift = lse[..., None], shift[..., None]
  q_ct = jnp.where(jnp.isnan(lse), jnp.nan, zeros_like(inputs.q))
  adds = jnp.isfinite(lse)
  lse, shift = jnp.where(adds, lse, jnp.inf), jnp.where(adds, shift, 0)
  zeros = zeros_like(
    (inputs.k, inputs.v, inputs.bias, inexact_leaves(inputs.term_consts))
  )
  k_ct, v_ct, q_ct, bias_ct, consts_ct = for_all_heads(
    partial(_pull_back_heads, blocks),
    blocks,
    inputs,
    (*zeros[:2], q_ct, *zeros[2:]),
    lse,
    shift,
    y_ct,
  )
  scale, scale_ct = inputs.scale, None
  if scale is not None:
    scale_ct = jnp.sum(finite_or_zero(inputs.q).astype(q_ct.dtype) * q_ct)
    q_ct, k_ct = scale * q_ct, scale * k_ct
  # In the order of `Inputs`; its other leaves are integers and keys.
  return q_ct, k_ct, v_ct, bias_ct, scale_ct, consts_ct


def _pull_back_heads(blocks, heads, totals, inputs, lse, shift, y_ct):
  """Adds the gradients of some heads to `totals`."""
  q, k, v, bias, scale, window, term_consts, dropout_consts = inputs
  grid, (rows, columns) = blocks.grid, blocks.grid
  matmul = partial(matmul_f32, precision=blocks.precision)

  def visit(j, i, is_first, totals):
    del is_first  # All sums are added to where they belong.
    k_ct, v_ct, q_ct, bias_ct, consts_ct = totals
    k_block, v_block = (finite_or_zero(grid.keys(x, heads, j)) for x in (k, v))
    part = partial(grid.queries, heads=heads, i=i)
    q_block, lse_block = finite_or_zero(part(q)), part(lse)
    q_block = blocks.q_scale * q_block
    y_ct_block = jnp.where(lse_block < jnp.inf, part(y_ct), 0)
    scores, pull_back = jax.vjp(
      partial(blocks.scores, i=i, j=j),
      term_consts,
      query_key_products(blocks.precision, q_block, k_block, scale),
      grid.bias(bias, i, j),
    )
    p = jnp.exp(scores - lse_block)
    counted = rows.counted_here(i)
    if counted is not None:
      counted = jnp.tile(counted, heads.num_heads // heads.num_groups)
      p = jnp.where(counted[:, None], p, 0)
    p_ct = matmul(y_ct_block, v_block, (-1, -1))
    p_ct = blocks.drop(dropout_consts, p_ct, i, j)
    kept = blocks.drop(dropout_consts, p, i, j).astype(v.dtype)
    scores_ct = p * (p_ct - part(shift))
    block_consts_ct, products_ct, bias_block_ct = pull_back(scores_ct)
    products_ct = products_ct.astype(k.dtype)
    row, column = rows.start(i), columns.start(j)
    if bias is not None:
      bias_ct = add_to_slice(bias_ct, bias_block_ct, {2: row, 3: column})
    q_block_ct = blocks.q_scale * matmul(products_ct, k_block, (-1, -2))
    # The short sides come first: XLA's CPU matmul transposes nothing.
    k_block_ct = matmul(_transpose(q_block), products_ct, (-1, -2))
    v_block_ct = matmul(_transpose(y_ct_block), kept, (-1, -2))

    def add(total, block, num_heads, starts):
      return add_to_heads(total, from_head_rows(block, num_heads), starts)

    of_keys = heads.num_groups, heads.of_keys(column)
    return (
      add(k_ct, _transpose(k_block_ct), *of_keys),
      add(v_ct, _transpose(v_block_ct), *of_keys),
      add(q_ct, q_block_ct, heads.num_heads, heads.of_queries(row)),
      bias_ct,
      add_to_sum(consts_ct, inexact_leaves(block_consts_ct)),
    )

  walk = Walk.along_columns(grid, blocks.limits or window.limits())
  return walk.run(visit, totals, q)


def _transpose(x):
  return jnp.swapaxes(x, -1, -2)


_attend = first_order_vjp(
  _forward,
  _backward,
  lambda blocks: (
    "chunked_softmax_attention has first derivatives only; for a second "
    "derivative take softmax_attention, or backward='remat'"
  ),
)
