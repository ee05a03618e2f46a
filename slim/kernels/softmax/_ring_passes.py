"""The passes of `ring_attention`, forward and backward.

A device has the stripes "low", p, and "high", 2 P - 1 - p. In each of P - 1
steps it meets the keys of another device s, and attends whole stripes without a
mask:

  its high queries to the low keys of s;
  its low queries to the low keys of s if s < p, else its high queries to the
  high keys.

The backward pass needs y and the log-sum-exp of all keys only. Keys travel once
more, and their gradients with them, P steps to get home. JAX's own derivative
would keep the keys of all steps.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from slim.kernels.softmax._arguments import Arguments, check_attention
from slim.kernels.softmax._blocks import split_into_blocks
from slim.kernels.softmax._cotangents import pull_back
from slim.kernels.softmax.chunked import chunked_softmax_attention_and_lse
from slim.kernels.softmax.definition import merge_attention
from slim.kernels.support.custom_derivative import add_to_sum, first_order_vjp
from slim.kernels.support.dtypes import at_least_float32
from slim.kernels.support.online_softmax import from_residual, to_residual


class Ring(NamedTuple):
  """The static arguments of `ring_attention`."""

  axis_name: str
  scale: Any
  precision: Any
  q_block_size: int
  k_block_size: int

  @property
  def num_devices(self) -> int:
    """P."""
    return jax.lax.axis_size(self.axis_name)

  @property
  def products(self) -> dict[str, Any]:
    """How queries and keys are multiplied."""
    return {"scale": self.scale, "precision": self.precision}

  @property
  def sizes(self) -> dict[str, int]:
    """Of the blocks."""
    return {
      "q_block_size": self.q_block_size,
      "k_block_size": self.k_block_size,
    }

  def pass_on(self, tree: Any) -> Any:
    """Sends arrays to the next device."""
    count = self.num_devices
    ring = [(i, (i + 1) % count) for i in range(count)]
    return jax.tree.map(
      lambda x: jax.lax.ppermute(x, self.axis_name, ring), tree
    )

  def is_from_earlier(self, step: jax.Array) -> jax.Array:
    """Tells whether the keys of a step come from a device before this one."""
    return step <= jax.lax.axis_index(self.axis_name)


class _Attended(NamedTuple):
  """What some queries have found so far."""

  y: jax.Array  # [B, t, H, V], float32 or wider.
  lse: jax.Array  # [B, t, H].


def _forward(ring, q, k, v):
  """Returns y, and what the backward pass needs."""
  dtype = at_least_float32(q.dtype, k.dtype, v.dtype)

  def attend(q, k, v, is_causal=False):
    y, lse = chunked_softmax_attention_and_lse(
      q, k, v, is_causal=is_causal, **ring.products, **ring.sizes
    )
    return _Attended(y.astype(dtype), lse.astype(dtype))

  low, high = _halves(q)
  (k_low, k_high), (v_low, v_high) = map(_halves, (k, v))
  found_low = attend(low, k_low, v_low, is_causal=True)
  found_high = _merge(
    attend(high, k_low, v_low), attend(high, k_high, v_high, is_causal=True)
  )

  def step(i, carry):
    (k, v), (found_low, found_high) = carry
    k, v = ring.pass_on((k, v))
    (k_low, k_high), (v_low, v_high) = map(_halves, (k, v))
    found_high = _merge(found_high, attend(high, k_low, v_low))
    from_earlier = ring.is_from_earlier(i)
    query, key, value, found = _select(
      from_earlier,
      (low, k_low, v_low, found_low),
      (high, k_high, v_high, found_high),
    )
    found = _merge(found, attend(query, key, value))
    return (k, v), (
      _select(from_earlier, found, found_low),
      _select(from_earlier, found_high, found),
    )

  _, found = jax.lax.fori_loop(
    1, ring.num_devices, step, ((k, v), (found_low, found_high))
  )
  y, lse = (jnp.concatenate(x, 1) for x in zip(*found, strict=True))
  y = y.astype(v.dtype)
  return y, (q, k, v, y, to_residual(lse))


def _backward(ring, residuals, y_ct):
  """Returns the gradients of q, k and v."""
  q, k, v, y, lse = residuals
  of_queries = zip(*map(_halves, (q, y, from_residual(lse), y_ct)), strict=True)
  low, high = of_queries

  def pair(query, k, v, is_causal=False):
    """Differentiates the attention of some queries to a stripe of keys."""
    q, y, lse, y_ct = query
    attention = check_attention(
      Arguments(q, k, v, is_causal=is_causal, **ring.products)
    )
    blocks, inputs = split_into_blocks(attention, **ring.sizes)
    found = pull_back(blocks, inputs, y, lse, y_ct, jnp.zeros_like(lse))
    return found[0], found[1:3]

  def step(i, carry):
    (k, v), of_keys, (q_low_ct, q_high_ct) = carry
    (k, v), of_keys = ring.pass_on(((k, v), of_keys))
    (k_low, k_high), (v_low, v_high) = map(_halves, (k, v))
    q_ct, of_low = pair(high, k_low, v_low)
    q_high_ct = q_high_ct + q_ct
    from_earlier = ring.is_from_earlier(i)
    q_ct, found = pair(
      *_select(from_earlier, (low, k_low, v_low), (high, k_high, v_high))
    )
    none = jax.tree.map(jnp.zeros_like, (q_ct, found))
    q_ct_low, found_low = _select(from_earlier, (q_ct, found), none)
    q_ct_high, found_high = _select(from_earlier, none, (q_ct, found))
    of_low = add_to_sum(of_low, found_low)
    return (
      (k, v),
      add_to_sum(of_keys, _join(of_low, found_high)),
      (q_low_ct + q_ct_low, q_high_ct + q_ct_high),
    )

  (k_low, k_high), (v_low, v_high) = map(_halves, (k, v))
  q_low_ct, of_low = pair(low, k_low, v_low, is_causal=True)
  q_high_ct, of_high = pair(high, k_high, v_high, is_causal=True)
  q_ct, found = pair(high, k_low, v_low)
  of_keys = _join(add_to_sum(of_low, found), of_high)
  carry = (k, v), of_keys, (q_low_ct, q_high_ct + q_ct)
  _, of_keys, of_queries = jax.lax.fori_loop(1, ring.num_devices, step, carry)
  return jnp.concatenate(of_queries, 1), *ring.pass_on(of_keys)


def _halves(x):
  """The low and the high stripe of an array."""
  return jnp.split(x, 2, 1)


def _join(low, high):
  """Undoes `_halves` for pytrees."""
  return jax.tree.map(lambda *x: jnp.concatenate(x, 1), low, high)


def _select(condition, one, other):
  """Selects one of two pytrees of arrays."""
  return jax.tree.map(lambda *x: jnp.where(condition, *x), one, other)


def _merge(one, other):
  return _Attended(*merge_attention([one, other]))


attend_on_ring = first_order_vjp(
  _forward,
  _backward,
  lambda _: (
    "ring_attention has first derivatives only; for a second derivative gather "
    "the tokens of all devices, and take softmax_attention"
  ),
)
