"""LSH attention: softmax attention to the keys that are likely to matter.

The keys nearest to a query dominate its softmax. Hashing finds them: tokens are
sorted by bucket and cut into chunks, and a query attends to its chunk and to
the one before, O(T) pairs instead of T². Several rounds of hashing find more.
"""

import math

import jax
import jax.numpy as jnp

from slim.kernels.lsh._rounds import (
  Settings,
  by_heads,
  make_round,
  queries_and_keys,
  rank_by_bucket,
)
from slim.kernels.lsh._sequential import attend_in_turn
from slim.kernels.softmax.definition import merge_attention
from slim.kernels.support.dtypes import at_least_float32
from slim.kernels.support.explicit_meshes import (
  by_shards,
  in_mesh_of_arguments,
  shard_alike,
)
from slim.kernels.support.head_rows import to_head_rows
from slim.kernels.support.mesh_axes import match_varying_axes
from slim.kernels.support.not_inlined import checked_as_one
from slim.kernels.support.online_softmax import softmax_and_lse
from slim.kernels.support.products import matmul_f32
from slim.kernels.support.shapes import (
  check_bool,
  check_float,
  check_number,
  check_positive_int,
  check_shape,
)


@in_mesh_of_arguments
@checked_as_one
def lsh_attention(
  qk: jax.Array,
  v: jax.Array,
  buckets: jax.Array,
  *,
  chunk_size: int,
  scale: jax.Array | float | None = None,
  is_causal: bool = False,
  count_once: bool = True,
  rounds: str = "sequential",
  heads_at_once: int | None = None,
) -> jax.Array:
  """Attends from each token to those that some round of hashing puts near it.

  Queries and keys are shared: k_j = qk_j / |qk_j|. In each round the tokens are
  sorted by (bucket, position) and cut into chunks. Query i meets the keys of
  its chunk and of the chunk before, except its own:

    y_i = Σ_r Σ_{j met in r} exp(scale · qk_i · k_j - log n[i, j]) v_j / Z_i,

  where Z_i normalises and n[i, j] is the number of rounds in which i and j
  meet, so that each pair counts once. A token that meets no other in any round
  attends to itself: y_i = v_i.

  Args:
    qk: [B, T, H, K], float.
    v: [B, T, H, V], float.
    buckets: [B, H, R, T], unsigned integers, from `lsh_buckets(qk, …)`. If you
      recompute this function, pass the same buckets again: recomputed vectors
      may fall into others.
    chunk_size: c, tokens in a sorted chunk, as in the Reformer paper. It is a
      block of this kernel, not the `chunk_size` of `scan`. It need not divide
      T. With c ≥ T this is full attention.
    scale: [], factor of the scores. An array is differentiated. Default: 1 /
      √K.
    is_causal: Whether a query sees no later keys.
    count_once: Whether to count each pair once. False sets n[i, j] = 1, so a
      pair counts as often as it meets.
    rounds: "sequential" computes one round after another, forward and backward,
      in the memory of one round. It has first derivatives only. "parallel" is
      the published form, which computes all rounds at once.
    heads_at_once: Number of heads to compute at once, a divisor of H. Fewer
      need less memory. Default: all.

  Returns:
    [B, T, H, V], dtype of `v`. Sums are computed in float32 or wider.

  Raises:
    ValueError: If an argument has the wrong shape, dtype or value, or if
      "sequential" is differentiated twice.

  Work: O(B·H·R·T·c·(K + V)), and R² T c comparisons if pairs count once.
  Memory of the gradient beyond inputs and outputs: O(B·H·T·(c + K + V)), and
  four bytes per token, head and round.

  References:
    Kitaev et al., 2020 (Reformer), https://arxiv.org/abs/2001.04451, section 2.
  """
  qk, v, buckets = (jnp.asarray(x) for x in (qk, v, buckets))
  check_shape("qk", qk, "BTHK", {})
  sizes = dict(zip("BTHK", qk.shape, strict=True))
  check_shape("v", v, "BTHV", sizes)
  check_shape("buckets", buckets, "BHRT", sizes)
  check_float("qk", qk)
  check_float("v", v)
  if not jnp.issubdtype(buckets.dtype, jnp.unsignedinteger):
    raise ValueError(
      f"buckets must be unsigned integers, got {buckets.dtype}; use lsh_buckets"
    )
  check_bool("is_causal", is_causal)
  check_bool("count_once", count_once)
  if rounds not in _ROUNDS:
    raise ValueError(f"rounds must be one of {tuple(_ROUNDS)}, got {rounds!r}")
  block_size = min(check_positive_int("chunk_size", chunk_size), sizes["T"])
  if heads_at_once is not None:
    check_positive_int("heads_at_once", heads_at_once)
    if sizes["H"] % heads_at_once:
      raise ValueError(
        f"heads_at_once must divide H = {sizes['H']}, got {heads_at_once}"
      )
  scale = 1 / math.sqrt(sizes["K"]) if scale is None else scale
  scale = jnp.asarray(check_number("scale", scale), at_least_float32(qk.dtype))
  qk, v, scale = match_varying_axes((qk, v, scale))
  # One per head, so that `heads_at_once` slices it like the other arrays.
  scale = jnp.broadcast_to(scale, (*buckets.shape[:2], 1, 1))
  scale = shard_alike(scale, buckets[:, :, 0, 0])
  settings = Settings(block_size, is_causal, count_once, heads_at_once)

  def attend(buckets, scale, qk, v):
    return _ROUNDS[rounds](settings, rank_by_bucket(buckets), scale, qk, v)

  qk, v = (to_head_rows(x, sizes["H"]) for x in (qk, v))
  y = by_shards(attend, 2, buckets, scale, qk, v)
  return jnp.swapaxes(y, 1, 2)


def _parallel(settings, *arrays):
  """Attends in all rounds, and merges the results by log-sum-exp."""
  return by_heads(_all_rounds, settings, *arrays)


def _all_rounds(settings, ranks, scale, qk, v):
  q, k = queries_and_keys(scale, qk)

  def one_round(r):
    this = make_round(settings, ranks, r)
    scores = this.scores(this.queries(q), this.keys(k))
    p, lse = softmax_and_lse(scores)
    y = matmul_f32(p.astype(v.dtype), this.keys(v), (-1, -2))
    return this.unsort(y), this.unsort(lse)[..., 0]

  num_rounds = ranks.shape[2]
  y, lse = merge_attention([one_round(r) for r in range(num_rounds)])
  return jnp.where(lse[..., None] == -jnp.inf, v, y.astype(v.dtype))


_ROUNDS = {"sequential": attend_in_turn, "parallel": _parallel}
