"""Linear attention with decay and the delta rule, in two forms.

  S_t = A_t S_{t-1} + k_t ⊗ (v_t - e_t · A_t S_{t-1}),   A_t = diag(exp(g_t)),
  y_t = q_t · S_t.

One equation for many recurrences; g is `log_decay`, e is `erase`:

  family              g, for each token               e     v
  RetNet              a constant of each head         none  v
  Mamba-2 (SSD)       of each head                    none  v
  GLA                 of each head and key channel    none  v
  DeltaNet            0                               β k   β v
  Gated DeltaNet      of each head                    β k   β v
  KDA                 of each head and key channel    β k   β v

Scales, normalisation of keys and gates are the caller's. `recurrent_` steps
from token to token (the definition), `chunked_`, the one to use, computes block
by block. You can run either on a piece of the sequence and continue with the
other from the state that it returns.

Set g to -inf at the first token of a document, and nothing before it is seen:
values and gradients are those of the document alone. All must be finite: NaN or
an infinite value passes on, as 0 · ∞ is NaN.
"""

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from slim.kernels.linear._gated_arguments import check_gated
from slim.kernels.linear._gated_blocks import Tokens, attend_in_blocks
from slim.kernels.support.explicit_meshes import (
  by_shards,
  in_mesh_of_arguments,
  is_sharded,
)
from slim.kernels.support.not_inlined import checked_as_one
from slim.kernels.support.products import einsum_f32
from slim.kernels.support.shapes import as_array, check_positive_int


def init_gated_state(
  batch_size: int,
  num_heads: int,
  key_dim: int,
  value_dim: int,
  *,
  dtype: DTypeLike = jnp.float32,
) -> jax.Array:
  """Makes the state before the first token.

  Args:
    batch_size: B.
    num_heads: H.
    key_dim: K.
    value_dim: V.
    dtype: float32 or wider.

  Returns:
    [B, H, K, V], zeros.
  """
  return jnp.zeros((batch_size, num_heads, key_dim, value_dim), dtype)


@in_mesh_of_arguments
@checked_as_one
def recurrent_gated_linear_attention(
  q: jax.Array,
  k: jax.Array,
  v: jax.Array,
  log_decay: jax.Array,
  state: jax.Array,
  *,
  erase: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array]:
  """Computes gated linear attention token by token: the definition.

  Args:
    q: [B, T, H, K], float. Queries.
    k: [B, T, H, K], float. Keys.
    v: [B, T, H, V], float. Values.
    log_decay: [B, T, H] or [B, T, H, K], g ≤ 0, float; -inf is allowed.
    state: [B, H, K, V], S_0, float32 or wider; from `init_gated_state` at the
      start.
    erase: [B, T, H, K], e; None: nothing is erased.

  Returns:
    y: [B, T, H, V], dtype of `v`. Sums are computed in float32 or wider.
    state: [B, H, K, V], S_T.

  Raises:
    ValueError: If the shapes of the arguments disagree, or if one has the wrong
      dtype.

  Memory beyond inputs and outputs: O(B·H·K·V); of the gradient, T times that.
  Work: T sequential steps.
  """
  v = as_array("v", v)
  dtype = v.dtype
  q, k, v, log_decay, state, erase = check_gated(
    q, k, v, log_decay, state, erase
  )
  per_token = q, k, v, log_decay if erase is None else (log_decay, erase)

  def step(state, token):
    q, k, v, *rest = token
    g, e = rest[0] if erase is not None else (rest[0], None)
    state = state * jnp.exp(g)[..., None]
    if e is not None:
      v = v - einsum_f32("bhk,bhkv->bhv", e, state)
    state = state + k[..., None] * v[..., None, :]
    return state, einsum_f32("bhk,bhkv->bhv", q, state)

  tokens = jax.tree.map(lambda x: jnp.moveaxis(x, 1, 0), per_token)
  state, y = jax.lax.scan(step, state, tokens)
  return jnp.moveaxis(y, 0, 1).astype(dtype), state


@in_mesh_of_arguments
@checked_as_one
def chunked_gated_linear_attention(
  q: jax.Array,
  k: jax.Array,
  v: jax.Array,
  log_decay: jax.Array,
  state: jax.Array,
  *,
  erase: jax.Array | None = None,
  block_size: int = 64,
) -> tuple[jax.Array, jax.Array]:
  """Computes gated linear attention block by block.

  Within a block of L tokens, let D_ij decay from token j to token i and D_i0
  from the start of the block. With the values u that are really written,

    P_ij = q_i D_ij · k_j,   E_ij = e_i D_ij · k_j (j < i),
    U = (1 + E)⁻¹ (V - (e D_·0) S),   Y = (q D_·0) S + P U,
    S ← D_L0 S + Σ_j (k_j D_Lj) ⊗ u_j.

  On a GPU or TPU all but the line of S is computed for all blocks at once. On a
  CPU blocks take turns, and the backward pass computes each again. No inverse
  of a decay or power of E is formed, so no decay, however strong or weak, and
  no keys, however alike, make it overflow.

  Args:
    q: [B, T, H, K], float. Queries.
    k: [B, T, H, K], float. Keys.
    v: [B, T, H, V], float. Values.
    log_decay: [B, T, H] or [B, T, H, K], g ≤ 0, float; -inf is allowed.
    state: [B, H, K, V], S_0, float32 or wider; from `init_gated_state` at the
      start.
    erase: [B, T, H, K], e; None: nothing is erased.
    block_size: L, tokens in a block, a power of 2. T need not be a multiple.

  Returns:
    y: [B, T, H, V], dtype of `v`. Sums are computed in float32 or wider.
    state: [B, H, K, V], S_T.

  Raises:
    ValueError: If the shapes of the arguments disagree, if one has the wrong
      dtype, or if `block_size` is not a power of 2.

  Memory beyond inputs and outputs: O(B·H·T·(L + K + V + K·V / L)); with a decay
  of each channel, O(log L) times K. On a CPU O(B·H·T·(K + V + K·V / L)).
  Work: O(B·H·T·(L·K + L·V + K·V)), with `erase` also O(L²).

  References:
    Yang et al., 2024 (GLA), https://arxiv.org/abs/2312.06635; Yang et al., 2025
    (Gated DeltaNet), https://arxiv.org/abs/2412.06464; Kimi Team, 2025 (KDA),
    https://arxiv.org/abs/2510.26692.
  """
  size = check_positive_int("block_size", block_size)
  if size & (size - 1):
    raise ValueError(f"block_size must be a power of 2, got {block_size}")
  v = as_array("v", v)
  dtype = v.dtype
  q, k, v, log_decay, state, erase = check_gated(
    q, k, v, log_decay, state, erase
  )
  num_tokens = v.shape[1]
  size = min(size, 1 << (num_tokens - 1).bit_length())

  # Zeros change nothing: no decay, no key, no value.
  padding = (0, 0), (0, -num_tokens % size), (0, 0), (0, 0)
  tokens = Tokens(q, k, v, log_decay, erase)
  tokens = jax.tree.map(lambda x: jnp.pad(x, padding), tokens)
  if not is_sharded(q):
    y, state = attend_in_blocks(size, state, tokens)
  else:

    def swap(tree):
      return jax.tree.map(lambda x: jnp.swapaxes(x, 1, 2), tree)

    def by_heads(state, *leaves):
      tokens = Tokens(*leaves, *[None] * (erase is None))
      y, state = attend_in_blocks(size, state, swap(tokens))
      return swap(y), state

    y, state = by_shards(by_heads, 2, state, *jax.tree.leaves(swap(tokens)))
    y = swap(y)
  return y[:, :num_tokens].astype(dtype), state
