"""Attention in rounds of LSH, one round at a time, forward and backward.

Over several rounds a query attends to all that it meets in any of them:

  y_i = Σ_r Σ_{j met in r} exp(score[i, j] - log n[i, j] - lse_i) v_j,

where lse_i normalises and n[i, j] is in how many rounds i and j meet, or 1. A
token that meets no other has y_i = v_i.

Only y, lse and the places of the tokens are kept for the backward pass, which
goes through the rounds again: memory does not grow with their number but by one
integer a token.
"""

from functools import partial

import jax
import jax.numpy as jnp

from slim.kernels.lsh._rounds import (
  Settings,
  by_heads,
  make_round,
  queries_and_keys,
)
from slim.kernels.support.cotangents import (
  cotangent,
  first_order_only,
)
from slim.kernels.support.dtypes import at_least_float32
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
  settings: Settings,
  places: jax.Array,
  scale: jax.Array,
  qk: jax.Array,
  v: jax.Array,
) -> jax.Array:
  """Attends round by round.

  Args:
    settings: The settings.
    places: [B, H, R, T], from `sort_places`.
    scale: [B, H, 1, 1], float32 or wider.
    qk: [B, H, T, K].
    v: [B, H, T, V].

  Returns:
    [B, H, T, V], dtype of `v`.
  """
  return _attend_fwd(settings, places, scale, qk, v)[0]


def _forward(settings, places, scale, qk, v):
  q, k = queries_and_keys(scale, qk)
  dtype = at_least_float32(q.dtype, v.dtype)

  def one_round(r, carry):
    top, total, num = carry
    this = make_round(settings, places, r)
    scores = this.scores(this.queries(q), this.keys(k)).astype(dtype)
    round_top = scores.max(-1, keepdims=True)
    p = jnp.exp(scores - zero_if_neg_inf(round_top))
    round_num = matmul_f32(p.astype(v.dtype), this.keys(v), (-1, -2))
    round_num = round_num.astype(dtype)
    round_top, round_total, round_num = (
      this.unsort(x) for x in (round_top, p.sum(-1, keepdims=True), round_num)
    )
    new_top = jnp.maximum(top, round_top)
    shrink, round_shrink = (
      jnp.exp(x - zero_if_neg_inf(new_top)) for x in (top, round_top)
    )
    return (
      new_top,
      total * shrink + round_total * round_shrink,
      num * shrink + round_num * round_shrink,
    )

  shape = (*v.shape[:3], 1)
  top, total, num = jax.lax.fori_loop(
    0,
    places.shape[2],
    one_round,
    (
      varying_full(shape, -jnp.inf, dtype, like=q),
      varying_full(shape, 0, dtype, like=q),
      varying_full(v.shape, 0, dtype, like=q),
    ),
  )
  total, lse = finish_softmax(top, total)
  y = jnp.where(lse == -jnp.inf, v, (num / total).astype(v.dtype))
  return y, lse


def _attend_fwd(settings, places, scale, qk, v):
  y, lse = by_heads(_forward, settings, places, scale, qk, v)
  return y, (places, scale, qk, v, y, to_residual(lse))


def _attend_bwd(settings, residuals, y_ct):
  places, *_ = inputs = first_order_only(
    residuals,
    "lsh_attention has first derivatives only; for a second derivative take "
    "rounds='parallel'",
  )
  cts = by_heads(_backward, settings, *inputs, y_ct)
  return cotangent(places, []), *cts


def _backward(settings, places, scale, qk, v, y, lse, y_ct):
  (q, k), vjp = jax.vjp(queries_and_keys, scale, qk)
  lse = from_residual(lse)
  alone = lse == -jnp.inf
  # Of a query that sees nothing, all exp(score - lse) have to be 0.
  lse = jnp.where(alone, jnp.inf, lse)
  shift = (y_ct.astype(lse.dtype) * y.astype(lse.dtype)).sum(-1, keepdims=True)

  def one_round(r, totals):
    this = make_round(settings, places, r)
    q_sorted, y_ct_sorted = this.queries(q), this.queries(y_ct)
    k_sorted, v_sorted = this.keys(k), this.keys(v)
    scores = this.scores(q_sorted, k_sorted).astype(lse.dtype)
    p = jnp.exp(scores - this.queries(lse))
    p_ct = matmul_f32(y_ct_sorted, v_sorted, (-1, -1)).astype(lse.dtype)
    scores_ct = (p * (p_ct - this.queries(shift))).astype(k.dtype)
    p = p.astype(v.dtype)
    cts = (
      this.unsort(matmul_f32(scores_ct, k_sorted, (-1, -2))),
      this.unsort_keys(matmul_f32(scores_ct, q_sorted, (-2, -2))),
      this.unsort_keys(matmul_f32(p, y_ct_sorted, (-2, -2))),
    )
    return tuple(
      total + ct.astype(total.dtype)
      for total, ct in zip(totals, cts, strict=True)
    )

  def zeros_of(x):
    return zeros_like(x, lse.dtype, like=q)

  q_ct, k_ct, v_ct = jax.lax.fori_loop(
    0, places.shape[2], one_round, tuple(map(zeros_of, (q, k, v)))
  )
  v_ct += jnp.where(alone, y_ct, 0).astype(v_ct.dtype)
  scale_ct, qk_ct = vjp(cotangent((q, k), [q_ct, k_ct]))
  return scale_ct, qk_ct, v_ct.astype(v.dtype)


attend.defvjp(_attend_fwd, _attend_bwd)
