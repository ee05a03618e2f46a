"""Gated linear attention block by block: blocks in turn, or all at once.

The names are those of the equation of `chunked_gated_linear_attention`.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from slim.kernels.linear._decay import decayed_products, sum_decay
from slim.kernels.linear._triangular import unit_lower_inverse
from slim.kernels.linear.prefix_sums import to_blocks
from slim.kernels.support.products import einsum_f32


class Tokens(NamedTuple):
  """The arguments of the kernel, of one dtype.

  Attributes:
    q: [B, T, H, K].
    k: [B, T, H, K].
    v: [B, T, H, V].
    log_decay: [B, T, H, 1 or K].
    erase: [B, T, H, K], or None.
  """

  q: jax.Array
  k: jax.Array
  v: jax.Array
  log_decay: jax.Array
  erase: jax.Array | None


def attend_in_blocks(
  size: int, state: jax.Array, tokens: Tokens
) -> tuple[jax.Array, jax.Array]:
  """Computes gated linear attention.

  On an accelerator all blocks are one batch, and only the states are a scan. On
  a CPU the blocks are a scan: the arrays of one fit the cache.

  Args:
    size: L, tokens in a block, a power of 2 and a divisor of T.
    state: [B, H, K, V].
    tokens: Of the sequence.

  Returns:
    y: [B, T, H, V].
    state: [B, H, K, V], the last one.
  """
  if tokens.q.shape[1] == size:
    return _one_block(state, tokens)
  return jax.lax.platform_dependent(
    state, tokens, cpu=partial(_in_turn, size), default=partial(_at_once, size)
  )


class _Block(NamedTuple):
  """Arrays of n blocks, each of one head, that do not depend on the state."""

  v: jax.Array  # [n, L, V].
  pairs: jax.Array  # [n, L, L], P.
  read: jax.Array  # [n, L, K], q D_·0.
  write: jax.Array  # [n, L, K], k D_L·.
  decay: jax.Array  # [n, 1 or K, 1], D_L0.
  erase: jax.Array | None  # [n, L, K], e D_·0.
  inverse: jax.Array | None  # [n, L, L], (1 + E)⁻¹.

  @classmethod
  def of(cls, tokens: Tokens, size: int) -> "_Block":
    """Cuts some tokens into blocks, and computes the arrays of all."""

    def cut(x):
      x = to_blocks(x, size)
      num_blocks, batch_size, num_heads, *shape = x.shape
      # One axis, so that all products have one batch axis.
      return x.reshape(num_blocks * batch_size * num_heads, *shape)

    q, k, v, log_decay, erase = jax.tree.map(cut, tokens)
    decay = sum_decay(log_decay)
    from_start = jnp.exp(decay.from_start)
    rows = [q] if erase is None else [q, erase]
    pairs, *erased = decayed_products(rows, k, decay)
    return cls(
      v,
      pairs,
      read=q * from_start,
      write=k * jnp.exp(decay.to_end),
      decay=from_start[:, -1, :, None],
      erase=None if erase is None else erase * from_start,
      inverse=None if erase is None else unit_lower_inverse(*erased),
    )

  def attend(self, before: jax.Array, written: jax.Array) -> jax.Array:
    """Computes y [n, L, V] from the states [n, K, V] and the values U."""
    y = einsum_f32("nik,nkv->niv", self.read, before)
    return y + einsum_f32("nij,njv->niv", self.pairs, written)


def _one_block(state, tokens):
  """Computes one block: y [B, L, H, V] and the next state."""
  batch_size, size, num_heads, _ = tokens.q.shape
  block = _Block.of(tokens, size)
  before = state.reshape(batch_size * num_heads, *state.shape[2:])
  written = block.v
  if block.erase is not None:
    written = written - einsum_f32("nik,nkv->niv", block.erase, before)
    written = einsum_f32("nij,njv->niv", block.inverse, written)
  after = einsum_f32("njk,njv->nkv", block.write, written)
  after += block.decay * before
  y = block.attend(before, written)
  y = y.reshape(batch_size, num_heads, *y.shape[1:])
  return jnp.moveaxis(y, 1, 2), after.reshape(state.shape)


def _in_turn(size, state, tokens):
  """Computes one block after the other, and each again for its derivative."""
  batch_size, length = tokens.q.shape[:2]

  def stack(x):
    x = x.reshape(batch_size, length // size, size, *x.shape[2:])
    return jnp.moveaxis(x, 1, 0)

  one_block = jax.checkpoint(_one_block, prevent_cse=False)

  def step(state, tokens):
    y, state = one_block(state, tokens)
    return state, y

  state, y = jax.lax.scan(step, state, jax.tree.map(stack, tokens))
  y = jnp.moveaxis(y, 0, 1)
  return y.reshape(batch_size, length, *y.shape[3:]), state


def _at_once(size, state, tokens):
  """Computes all blocks as one batch, and scans over them for the states."""
  shape = batch_size, num_heads, *_ = state.shape
  num_blocks, num_states = tokens.q.shape[1] // size, batch_size * num_heads

  def stack(x):
    """[n·B·H, …] to [n, B·H, …], to scan over the blocks."""
    return x.reshape(num_blocks, num_states, *x.shape[1:])

  def unstack(x):
    return x.reshape(num_blocks * num_states, *x.shape[2:])

  block = _Block.of(tokens, size)
  state = state.reshape(num_states, *shape[2:])
  written = block.v
  if block.erase is None:
    updates = einsum_f32("njk,njv->nkv", block.write, written)

    def step(state, block):
      decay, update = block
      return decay * state + update, state

    state, before = jax.lax.scan(
      step, state, (stack(block.decay), stack(updates))
    )
  else:
    # Multiplied by the inverse for all blocks, not in the loop.
    erased = einsum_f32("nij,njk->nik", block.inverse, block.erase)
    written = einsum_f32("nij,njv->niv", block.inverse, written)

    def step(state, block):
      decay, erased, written, write = block
      written = written - einsum_f32("nik,nkv->niv", erased, state)
      update = einsum_f32("njk,njv->nkv", write, written)
      return decay * state + update, (state, written)

    of_blocks = block.decay, erased, written, block.write
    state, (before, written) = jax.lax.scan(
      step, state, tuple(map(stack, of_blocks))
    )
    written = unstack(written)
  y = block.attend(unstack(before), written)
  y = y.reshape(num_blocks, *shape[:2], size, y.shape[-1])
  y = y.transpose(1, 0, 3, 2, 4)
  y = y.reshape(batch_size, num_blocks * size, *y.shape[3:])
  return y, state.reshape(shape)
