"""The backward pass of chunked softmax attention, from the log-sum-exp.

It recomputes the probabilities of a block, p = exp(score - lse):

  v_ct = pᵀ y_ct,   score_ct = p · (y_ct vᵀ - y_ct · y + lse_ct),

and pulls score_ct back through whatever the scores are made of.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from slim.kernels.softmax._blocks import Blocks, Inputs
from slim.kernels.softmax._finite import finite_or_zero, query_key_products
from slim.kernels.softmax._slices import (
  add_to_heads,
  add_to_slice,
  merge_heads,
  split_heads,
)
from slim.kernels.softmax._turns import for_all_heads
from slim.kernels.softmax._walk import Walk
from slim.kernels.support.cotangents import inexact_leaves
from slim.kernels.support.custom_derivative import add_to_sum, zeros_for_sum
from slim.kernels.support.dtypes import promote
from slim.kernels.support.head_rows import from_head_rows
from slim.kernels.support.mesh_axes import vary_alike
from slim.kernels.support.products import matmul_f32


class Totals(NamedTuple):
  """Sums of cotangents, float32 or wider, with merged heads."""

  q: jax.Array  # [B, T, H·K].
  k: jax.Array  # [B, S, G·K].
  v: jax.Array  # [B, S, G·V].


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
  zeros = zeros_for_sum((inputs.k, inputs.v), like=inputs.q)
  totals = Totals(zero_queries(inputs.q, lse), *map(merge_heads, zeros))
  totals, bias_ct, consts_ct = add_cotangents(
    blocks, inputs, y, lse, y_ct, lse_ct, totals
  )
  q_ct, k_ct, v_ct = (
    split_heads(x, like.shape[-1])
    for x, like in zip(totals, (inputs.q, inputs.k, inputs.v), strict=True)
  )
  scale, scale_ct = inputs.scale, None
  if scale is not None:
    scale_ct = jnp.sum(finite_or_zero(inputs.q).astype(q_ct.dtype) * q_ct)
    q_ct, k_ct = scale * q_ct, scale * k_ct
  # In the order of `Inputs`; its other leaves are integers and keys.
  return q_ct, k_ct, v_ct, bias_ct, scale_ct, consts_ct


def zero_queries(q: jax.Array, lse: jax.Array) -> jax.Array:
  """Makes the first `Totals.q`; a query with a score of NaN has a NaN."""
  zeros = zeros_for_sum(q)
  return merge_heads(jnp.where(jnp.isnan(lse)[..., None], jnp.nan, zeros))


def add_cotangents(
  blocks: Blocks,
  inputs: Inputs,
  y: jax.Array,
  lse: jax.Array,
  y_ct: jax.Array,
  lse_ct: jax.Array | float,
  totals: Totals,
) -> tuple[Totals, jax.Array | None, list[jax.Array]]:
  """Differentiates attention, and adds the cotangents to totals in place.

  Args:
    blocks: The static part.
    inputs: The arrays. Those of q and k are yet to be multiplied by
      `inputs.scale`.
    y: As for `pull_back`, as are the next three.
    lse: Likewise.
    y_ct: Likewise.
    lse_ct: Likewise.
    totals: Sums of other cotangents.

  Returns:
    The totals, and the cotangents of bias and `term_consts`.
  """
  # score_ct = p · (y_ct vᵀ - shift).
  shift = jnp.sum(y_ct.astype(lse.dtype) * y.astype(lse.dtype), -1) - lse_ct
  # A query with a score of NaN must add nothing to the gradients of keys and
  # values, like a query that sees nothing: an lse of inf makes exp(score - lse)
  # zero.
  lse, shift = lse[..., None], shift[..., None]
  adds = jnp.isfinite(lse)
  lse, shift = jnp.where(adds, lse, jnp.inf), jnp.where(adds, shift, 0)
  consts = inexact_leaves(inputs.term_consts)
  if blocks.limits is None and not all(vary_alike(x, inputs.q) for x in consts):
    # Each block sums over the devices, which may have other numbers of blocks.
    raise ValueError(
      "bias_fn and mask_fn must not close over floats that devices share if "
      "query_offset is traced: pass them as bias_params, or cast them by "
      "jax.lax.pcast(x, axes, to='varying')"
    )
  others = zeros_for_sum((inputs.bias, consts))
  *found, bias_ct, consts_ct = for_all_heads(
    partial(_pull_back_heads, blocks),
    blocks,
    inputs,
    (*totals, *others),
    lse,
    shift,
    y_ct,
  )
  return Totals(*found), bias_ct, consts_ct


def _pull_back_heads(blocks, heads, totals, inputs, lse, shift, y_ct):
  """Adds the gradients of some heads to `totals`, those of `merge_heads`."""
  q, k, v, bias, scale, window, term_consts, dropout_consts = inputs
  grid, (rows, columns) = blocks.grid, blocks.grid
  matmul = partial(matmul_f32, precision=blocks.precision)

  def visit(j, i, is_first, totals):
    del is_first  # All sums are added to where they belong.
    q_ct, k_ct, v_ct, bias_ct, consts_ct = totals
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
    products_ct = products_ct.astype(promote(q.dtype, k.dtype))
    row, column = rows.start(i), columns.start(j)
    if bias is not None:
      bias_ct = add_to_slice(bias_ct, bias_block_ct, {2: row, 3: column})
    q_block_ct = blocks.q_scale * matmul(products_ct, k_block, (-1, -2))
    k_block_ct = _sum_over_queries(matmul, products_ct, q_block)
    v_block_ct = _sum_over_queries(matmul, kept, y_ct_block)

    def add(total, block, num_heads, starts):
      return add_to_heads(total, from_head_rows(block, num_heads), starts)

    of_keys = heads.num_groups, heads.of_keys(column)
    return (
      add(q_ct, q_block_ct, heads.num_heads, heads.of_queries(row)),
      add(k_ct, k_block_ct, *of_keys),
      add(v_ct, v_block_ct, *of_keys),
      bias_ct,
      add_to_sum(consts_ct, inexact_leaves(block_consts_ct)),
    )

  limits = blocks.limits or window.limits()
  walk = Walk.along_columns(grid, limits, window.end)
  return walk.run(visit, totals, q)


def _sum_over_queries(matmul, pairs, x):
  """Computes pairsᵀ x for blocks [B, G, queries, keys] and [B, G, queries, X].

  XLA's matmul for CPUs takes less time if it has to transpose nothing.
  If the transposed product were taken elsewhere, XLA for GPUs would keep the
  sums of all keys transposed, and would transpose them once more at the end.
  """

  def on_cpu(pairs, x):
    return _transpose(matmul(_transpose(x), pairs, (-1, -2)))

  def elsewhere(pairs, x):
    return matmul(pairs, x, (-2, -2))

  return jax.lax.platform_dependent(pairs, x, cpu=on_cpu, default=elsewhere)


def _transpose(x):
  return jnp.swapaxes(x, -1, -2)
