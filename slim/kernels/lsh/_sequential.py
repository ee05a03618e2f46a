"""LSH attention one round at a time, forward and backward.

A query attends to all keys that it meets in any round:

  y_i = Σ_r Σ_{j met in r} exp(score[i, j] - log n[i, j] - lse_i) v_j,

where lse_i normalises, and n[i, j] is the number of rounds in which i and j
meet, or 1. A token that meets no other has y_i = v_i.

Only y, lse and the ranks of the tokens are kept for the backward pass, which
recomputes the rounds. A further round needs memory for one integer per token.
"""

import jax
import jax.numpy as jnp

from slim.kernels.lsh._rounds import (
  Settings,
  by_heads,
  make_round,
  queries_and_keys,
)
from slim.kernels.support.cotangents import cotangent
from slim.kernels.support.custom_derivative import (
  add_to_sum,
  first_order_vjp,
)
from slim.kernels.support.dtypes import at_least_float32
from slim.kernels.support.mesh_axes import (
  varying_full,
  zeros_like,
)
from slim.kernels.support.online_softmax import (
  Partial,
  from_residual,
  to_residual,
)
from slim.kernels.support.products import matmul_f32


def attend_in_turn(
  settings: Settings,
  ranks: jax.Array,
  scale: jax.Array,
  qk: jax.Array,
  v: jax.Array,
) -> jax.Array:
  """Attends round by round.

  Args:
    settings: The static arguments.
    ranks: [B, H, R, T], from `rank_by_bucket`.
    scale: [B, H, 1, 1], float32 or wider.
    qk: [B, H, T, K].
    v: [B, H, T, V].

  Returns:
    [B, H, T, V], dtype of `v`.
  """
  return _attend(settings, ranks, scale, qk, v)


def _forward(settings, ranks, scale, qk, v):
  """Returns y, and what the backward pass needs."""
  y, lse = by_heads(_forward_of_heads, settings, ranks, scale, qk, v)
  return y, (ranks, scale, qk, v, y, to_residual(lse))


def _forward_of_heads(settings, ranks, scale, qk, v):
  q, k = queries_and_keys(scale, qk)
  dtype = at_least_float32(q.dtype, v.dtype)

  def one_round(r, so_far):
    this = make_round(settings, ranks, r)
    scores = this.scores(this.queries(q), this.keys(k)).astype(dtype)

    def weigh(weights):
      y = matmul_f32(weights.astype(v.dtype), this.keys(v), (-1, -2))
      return y.astype(dtype)

    of_round = Partial.of(scores, weigh)
    return so_far.join(Partial(*map(this.unsort, of_round)))

  shape = (*v.shape[:3], 1)
  nothing = Partial(
    varying_full(shape, -jnp.inf, dtype, like=q),
    varying_full(shape, 0, dtype, like=q),
    varying_full(v.shape, 0, dtype, like=q),
  )
  y, lse = jax.lax.fori_loop(0, ranks.shape[2], one_round, nothing).finish()
  return jnp.where(lse == -jnp.inf, v, y.astype(v.dtype)), lse


def _backward(settings, residuals, y_ct):
  return None, *by_heads(_backward_of_heads, settings, *residuals, y_ct)


def _backward_of_heads(settings, ranks, scale, qk, v, y, lse, y_ct):
  (q, k), vjp = jax.vjp(queries_and_keys, scale, qk)
  lse = from_residual(lse)
  alone = lse == -jnp.inf
  # A query that sees nothing has exp(score - lse) = 0 for every key.
  lse = jnp.where(alone, jnp.inf, lse)
  shift = (y_ct.astype(lse.dtype) * y.astype(lse.dtype)).sum(-1, keepdims=True)

  def one_round(r, totals):
    this = make_round(settings, ranks, r)
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
    return add_to_sum(totals, cts)

  # In the dtype of lse, which is at least as wide as those of q, k and v.
  zeros = tuple(zeros_like(x, lse.dtype, like=q) for x in (q, k, v))
  q_ct, k_ct, v_ct = jax.lax.fori_loop(0, ranks.shape[2], one_round, zeros)
  v_ct += jnp.where(alone, y_ct, 0).astype(v_ct.dtype)
  scale_ct, qk_ct = vjp(cotangent((q, k), [q_ct, k_ct]))
  return scale_ct, qk_ct, v_ct.astype(v.dtype)


_attend = first_order_vjp(
  _forward,
  _backward,
  lambda settings: (
    "lsh_attention has first derivatives only; for a second derivative take "
    "rounds='parallel'"
  ),
)
