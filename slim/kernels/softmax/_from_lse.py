"""Softmax attention by blocks of queries and keys, forward and backward.

Forward, a block of queries walks over the blocks of keys with three running
values: the largest score m, Σ exp(score - m) and Σ exp(score - m) v. Only y and
the log-sum-exp of each query's scores are kept for the backward pass, which
forms each block of probabilities anew, p = exp(score - lse):

  v_ct = pᵀ y_ct,   score_ct = p · (y_ct vᵀ - y_ct · y + lse_ct),

and pulls score_ct back through the scores of the block, whatever they are made
of. Blocks that no query sees are skipped, in both directions.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from slim.kernels.softmax._blocks import Blocks
from slim.kernels.softmax._products import (
  finite_or_zero,
  mark,
  products,
)
from slim.kernels.support.cotangents import (
  cotangent,
  first_order_only,
  inexact_leaves,
)
from slim.kernels.support.dtypes import at_least_float32
from slim.kernels.support.head_rows import from_head_rows
from slim.kernels.support.log_sum_exp import (
  finish_softmax,
  from_residual,
  to_residual,
  zero_if_neg_inf,
)
from slim.kernels.support.mesh_axes import (
  varying_full,
  zeros_like,
)
from slim.kernels.support.products import matmul_f32


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def attend(
  blocks: Blocks,
  consts: tuple[Any, ...],
  q: jax.Array,
  k: jax.Array,
  v: jax.Array,
  bias: jax.Array | None,
) -> tuple[jax.Array, jax.Array]:
  """Computes y and lse of `chunked_softmax_attention_and_lse`.

  Args:
    blocks: From `cut`.
    consts: From `cut`.
    q: [B, T, H, K].
    k: [B, S, N, K].
    v: [B, S, N, V].
    bias: [B or 1, H or 1, T or 1, S or 1], or None.

  Returns:
    y: [B, T, H, V], dtype of `v`.
    lse: [B, T, H], float32 or wider.
  """
  return _forward(blocks, consts, q, k, v, bias)


def _forward(blocks, consts, q, k, v, bias):
  rows, columns = blocks.rows, blocks.columns
  score_consts, dropout_consts, window, scale = consts
  dtype = at_least_float32(q.dtype, v.dtype)
  num_heads, num_groups = q.shape[2], k.shape[2]
  shape = (q.shape[0], num_groups, num_heads // num_groups * rows.size)

  def query_block(i, outputs):
    q_block = blocks.q_scale * blocks.queries(q, k, i)

    def key_block(j, carry):
      top, total, num = carry
      k_block, v_block = (blocks.keys(x, j) for x in (k, v))
      k_block, v_block = mark(k_block, v_block), finite_or_zero(v_block)
      scores = blocks.scores(
        score_consts,
        products(blocks.precision, q_block, k_block, scale),
        blocks.bias(bias, i, j),
        i,
        j,
      )
      new_top = jnp.maximum(top, scores.max(-1))
      p = jnp.exp(scores - zero_if_neg_inf(new_top)[..., None])
      shrink = jnp.exp(top - zero_if_neg_inf(new_top))
      total = total * shrink + p.sum(-1)
      p = blocks.drop(dropout_consts, p, i, j).astype(v.dtype)
      new = matmul_f32(p, v_block, (-1, -2), blocks.precision)
      num = num * shrink[..., None] + new
      return new_top, total, num

    index = rows.index(i)
    top, total, num = jax.lax.fori_loop(
      *columns.blocks(*window.columns(index[0], index[-1])),
      key_block,
      (
        varying_full(shape, -jnp.inf, dtype, like=q_block),
        varying_full(shape, 0, dtype, like=q_block),
        varying_full((*shape, v.shape[-1]), 0, dtype, like=q_block),
      ),
    )
    total, lse = finish_softmax(top, total)
    y = num / total[..., None]
    return tuple(
      jax.lax.dynamic_update_slice_in_dim(
        whole, from_head_rows(x, num_heads).astype(whole.dtype), index[0], 1
      )
      for whole, x in zip(outputs, (y, lse[..., None]), strict=True)
    )

  y, lse = jax.lax.fori_loop(
    0,
    rows.num_blocks,
    query_block,
    (
      varying_full((*q.shape[:3], v.shape[-1]), 0, v.dtype, like=q),
      varying_full((*q.shape[:3], 1), 0, dtype, like=q),
    ),
  )
  return y, lse[..., 0]


def _attend_fwd(blocks, consts, q, k, v, bias):
  y, lse = _forward(blocks, consts, q, k, v, bias)
  return (y, lse), (consts, q, k, v, bias, y, to_residual(lse))


def _attend_bwd(blocks, residuals, cotangents):
  consts, q, k, v, bias, y, lse = first_order_only(
    residuals,
    "chunked_softmax_attention has first derivatives only; for a second "
    "derivative take softmax_attention, or backward='remat'",
  )
  lse = from_residual(lse)
  rows, columns = blocks.rows, blocks.columns
  score_consts, dropout_consts, window, scale = consts
  num_heads, num_groups = q.shape[2], k.shape[2]
  times = partial(matmul_f32, precision=blocks.precision)
  y_ct, lse_ct = cotangents

  def zeros_of(x):
    return zeros_like(x, at_least_float32(x.dtype), like=q)

  # score_ct = p · (y_ct vᵀ - shift).
  shift = jnp.sum(y_ct.astype(lse.dtype) * y.astype(lse.dtype), -1) - lse_ct
  # A query with a score of NaN has a gradient of NaN. It adds nothing to those
  # of keys and values, as one that sees nothing: exp(score - lse) is to be 0.
  lse, shift = lse[..., None], shift[..., None]
  q_ct = jnp.where(jnp.isnan(lse), jnp.nan, zeros_of(q))
  adds = jnp.isfinite(lse)
  lse, shift = jnp.where(adds, lse, jnp.inf), jnp.where(adds, shift, 0)

  def key_block(j, totals):
    index = columns.index(j)
    k_block, v_block = (finite_or_zero(blocks.keys(x, j)) for x in (k, v))

    def query_block(i, carry):
      k_ct, v_ct, q_ct, bias_ct, consts_ct = carry
      start = rows.start(i)
      part = partial(blocks.queries, k=k, i=i)
      q_block, lse_block = finite_or_zero(part(q)), part(lse)
      q_block = blocks.q_scale * q_block
      y_ct_block = jnp.where(lse_block < jnp.inf, part(y_ct), 0)
      scores, pull_back = jax.vjp(
        partial(blocks.scores, i=i, j=j),
        score_consts,
        products(blocks.precision, q_block, k_block, scale),
        blocks.bias(bias, i, j),
      )
      p = jnp.exp(scores - lse_block)
      counted = rows.counted_here(i)
      if counted is not None:
        counted = jnp.tile(counted, num_heads // num_groups)
        p = jnp.where(counted[:, None], p, 0)
      p_ct = times(y_ct_block, v_block, (-1, -1))
      p_ct = blocks.drop(dropout_consts, p_ct, i, j)
      kept = blocks.drop(dropout_consts, p, i, j).astype(v.dtype)
      scores_ct = p * (p_ct - part(shift))
      block_consts_ct, products_ct, bias_block_ct = pull_back(scores_ct)
      products_ct = products_ct.astype(k.dtype)
      if bias is not None:
        bias_ct = _add_at(bias_ct, bias_block_ct, (2, start), (3, index[0]))
      q_block_ct = blocks.q_scale * times(products_ct, k_block, (-1, -2))
      return (
        # The short sides first: XLA's CPU library knows no transposed matrix.
        k_ct + times(_transpose(q_block), products_ct, (-1, -2)),
        v_ct + times(_transpose(y_ct_block), kept, (-1, -2)),
        _add_at(q_ct, from_head_rows(q_block_ct, num_heads), (1, start)),
        bias_ct,
        jax.tree.map(_add, consts_ct, inexact_leaves(block_consts_ct)),
      )

    k_ct, v_ct, *rest = totals
    *block_cts, q_ct, bias_ct, consts_ct = jax.lax.fori_loop(
      *rows.blocks(*window.rows(j * columns.size, index[-1])),
      query_block,
      (zeros_of(_transpose(k_block)), zeros_of(_transpose(v_block)), *rest),
    )
    k_ct, v_ct = (
      _add_at(x, from_head_rows(_transpose(block), num_groups), (1, index[0]))
      for x, block in zip((k_ct, v_ct), block_cts, strict=True)
    )
    return k_ct, v_ct, q_ct, bias_ct, consts_ct

  k_ct, v_ct, *rest = jax.tree.map(
    zeros_of, (k, v, bias, inexact_leaves(score_consts))
  )
  k_ct, v_ct, q_ct, bias_ct, consts_ct = jax.lax.fori_loop(
    0, columns.num_blocks, key_block, (k_ct, v_ct, q_ct, *rest)
  )
  scale_ct = []
  if scale is not None:
    scale_ct.append(jnp.sum(finite_or_zero(q).astype(q_ct.dtype) * q_ct))
    q_ct, k_ct = scale * q_ct, scale * k_ct
  return (
    (cotangent(score_consts, consts_ct), *cotangent(consts[1:], scale_ct)),
    *cotangent((q, k, v, bias), [q_ct, k_ct, v_ct, *jax.tree.leaves(bias_ct)]),
  )


attend.defvjp(_attend_fwd, _attend_bwd)


def _transpose(x):
  return jnp.swapaxes(x, -1, -2)


def _add(total, x):
  return total + x.astype(total.dtype)


def _add_at(total, part, *starts):
  """Adds to a piece of `total`; an axis of length 1 has no start but 0."""
  start = [0] * total.ndim
  for axis, at in starts:
    start[axis] = at if total.shape[axis] > 1 else 0
  start = [jnp.int32(at) for at in start]
  old = jax.lax.dynamic_slice(total, start, part.shape)
  return jax.lax.dynamic_update_slice(total, _add(old, part), start)
