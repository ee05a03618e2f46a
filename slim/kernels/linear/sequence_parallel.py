"""Linear attention to a sequence whose tokens are on several devices.

Each device sums its own tokens. The devices exchange these sums, so that each
knows the sums of all tokens before its own. A chunk of P·C tokens that P
devices share is then computed at once, C tokens on each:

  before me = state + Σ_{i<p} sums of device i
  after     = state + Σ_i sums of device i

The state after is equal on all devices to the last bit, so `slim.kernels.scan`
carries it from chunk to chunk as it is, with every policy. See
`slim.kernels.chunk_order` for the order of tokens.
"""

import jax
import jax.numpy as jnp

from slim.kernels.linear.attention import chunked_linear_attention
from slim.kernels.linear.prefix_sums import (
  PrefixSums,
  add_sums,
  token_sums,
)
from slim.kernels.support.mesh_axes import vary

# More devices would hold many states of others at once.
_MOST_TO_GATHER = 8


def sequence_parallel_linear_attention(
  q: jax.Array,
  k: jax.Array,
  v: jax.Array,
  state: PrefixSums,
  *,
  axis_name: str,
  block_size: int = 64,
  eps: jax.Array | float = 1e-16,
) -> tuple[jax.Array, PrefixSums]:
  """Computes causal linear attention to tokens that P devices share.

  Call it in `jax.shard_map`. The tokens of device p come after those of device
  p - 1. The result is that of `chunked_linear_attention` for all of them.

  Args:
    q: [B, T, H, M], float. Queries of this device, after a feature map.
    k: [B, T, H, M], float. Keys of this device, after the same feature map.
    v: [B, T, H, V], float. Values of this device.
    state: PrefixSums of the tokens before those of all devices, equal on all of
      them.
    axis_name: The mesh axis over which the tokens are split.
    block_size: As for `chunked_linear_attention`.
    eps: As for `chunked_linear_attention`.

  Returns:
    y: [B, T, H, V], dtype of `v`.
    state: PrefixSums after the tokens of all devices, equal on all of them.

  Raises:
    ValueError: As `chunked_linear_attention`.

  Memory beyond inputs and outputs: that of `chunked_linear_attention` for T
  tokens, and up to 8 states. Communication: see `exchange_sums`.
  """
  update = token_sums(k, v, block_size=block_size)
  earlier, total = exchange_sums(update, axis_name)
  y, _ = chunked_linear_attention(
    q, k, v, add_sums(state, earlier), block_size=block_size, eps=eps
  )
  return y, add_sums(state, total)


def exchange_sums(
  update: PrefixSums, axis_name: str
) -> tuple[PrefixSums, PrefixSums]:
  """Sums what the devices before this one, and all devices, add to a state.

  Args:
    update: `token_sums` of the tokens of this device.
    axis_name: The mesh axis over which the tokens are split, in order.

  Returns:
    earlier: The sum over the devices before this one.
    total: The sum over all devices, equal on all of them to the last bit.

  Communication, where S is the size of a state: one all-gather, (P - 1) S
  received, for up to 8 devices; beyond, two all-to-alls, 3 S (P - 1) / P. The
  derivative has one collective for each.
  """
  num_devices = jax.lax.axis_size(axis_name)
  if num_devices == 1:
    return jax.tree.map(jnp.zeros_like, update), update
  # One array: each collective costs a latency.
  x = jnp.concatenate([update.kv, update.k[..., None]], -1)
  x = vary(x, {axis_name})
  way = _all_gather if num_devices <= _MOST_TO_GATHER else _all_to_all
  earlier, total = way(x, axis_name)
  return _split(earlier), _split(total)


def _split(x):
  """The sums of an array."""
  return PrefixSums(x[..., :-1], x[..., -1])


def _all_gather(x, axis_name):
  """Returns the sums over earlier and over all devices, by one all-gather."""
  xs = jax.lax.all_gather(x, axis_name)
  devices = jnp.arange(xs.shape[0]).reshape(-1, *[1] * x.ndim)
  # Not the total less the rest, which would cancel.
  is_earlier = devices < jax.lax.axis_index(axis_name)
  return jnp.where(is_earlier, xs, 0).sum(0), xs.sum(0)


def _all_to_all(x, axis_name):
  """Returns the same; each device sums a slice of the arrays of all."""
  num_devices = jax.lax.axis_size(axis_name)
  flat = jnp.pad(x.reshape(-1), (0, -x.size % num_devices))
  slices = flat.reshape(num_devices, -1)
  # From [slice, n] of this device to [device, n] of this slice.
  of_devices = jax.lax.all_to_all(slices, axis_name, 0, 0)
  sums = jnp.cumsum(of_devices, 0)
  earlier = jnp.concatenate([jnp.zeros_like(sums[:1]), sums[:-1]])
  total = jnp.broadcast_to(sums[-1], sums.shape)
  both = jnp.stack([earlier, total], 1)
  both = jax.lax.all_to_all(both, axis_name, 0, 0)
  earlier, total = (
    both[:, i].reshape(-1)[: x.size].reshape(x.shape) for i in range(2)
  )
  return earlier, total
