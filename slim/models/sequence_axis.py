"""A mesh axis whose devices share the tokens of a sequence."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from slim.types import TokenOrder


class SequenceAxis(NamedTuple):
  """The axis, and which tokens each of its P devices has.

  Attributes:
    name: Its name, in `jax.shard_map`.
    order: "chunk": device p has piece p of every chunk, as from
      `slim.kernels.chunk_order`. "zigzag": it has the stripes p and 2 P - 1 - p
      of the sequence, as from `slim.kernels.zigzag_order`.
  """

  name: str
  order: TokenOrder

  @property
  def size(self) -> int:
    """P."""
    return jax.lax.axis_size(self.name)

  def of_first_device(self, x: jax.Array) -> jax.Array:
    """Returns the array that the first device of the axis has, on all."""
    is_first = jax.lax.axis_index(self.name) == 0
    return jax.lax.psum(jnp.where(is_first, x, 0), self.name)


def token_positions(
  first: jax.Array, num_tokens: int, axis: SequenceAxis | None
) -> jax.Array:
  """Computes the positions of the tokens of this device.

  Args:
    first: [], int32, position of the first token of all devices.
    num_tokens: T, tokens of this device.
    axis: The devices that share the tokens; None: this device has all.

  Returns:
    [T], int32.
  """
  tokens = jnp.arange(num_tokens, dtype=jnp.int32)
  if axis is None:
    return first + tokens
  device = jax.lax.axis_index(axis.name)
  if axis.order == "chunk":
    return first + device * num_tokens + tokens
  half = num_tokens // 2
  high_stripe = 2 * axis.size - 1 - device
  stripe = jnp.where(tokens < half, device, high_stripe)
  return first + stripe * half + tokens % half
