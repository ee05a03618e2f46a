"""Arrays of tokens as matrices by heads, their products, and pieces of them."""

from typing import Any

import jax

from slim.kernels.support.dtypes import at_least_float32


def heads_first(
  x: jax.Array, heads: tuple[int, int] | None = None
) -> jax.Array:
  """[B, s, N, K] as [B, N, s, K], or [B, s, H, K] as [B, N, G·s, K].

  The queries of all heads that share a head of keys are rows of one matrix.

  Args:
    x: Queries, keys, values, or what else there is one of for a token and head.
    heads: (N, G), if x has H = N·G heads.

  Returns:
    As said; an array of one product.
  """
  batch, length, _, width = x.shape
  num_groups, size = heads or (x.shape[2], 1)
  x = x.reshape(batch, length, num_groups, size, width)
  x = x.transpose(0, 2, 3, 1, 4)
  return x.reshape(batch, num_groups, size * length, width)


def tokens_first(x: jax.Array, num_heads: int) -> jax.Array:
  """[B, N, G·s, K] as [B, s, H, K]: undoes `heads_first`."""
  batch, num_groups, num_rows, width = x.shape
  size = num_heads // num_groups
  length = num_rows // size
  x = x.reshape(batch, num_groups, size, length, width)
  x = x.transpose(0, 3, 1, 2, 4)
  return x.reshape(batch, length, num_heads, width)


def product(
  a: jax.Array,
  b: jax.Array,
  contracted: tuple[int, int],
  precision: Any = None,
) -> jax.Array:
  """Multiplies matrices [B, N, …, …], summing in float32 or wider.

  Not by `jnp.einsum`, which may swap the two, and transposes the result back.

  Args:
    a: [B, N, …, …].
    b: [B, N, …, …].
    contracted: The axis of each that is summed over, -1 or -2.
    precision: As of `jax.lax.dot_general`.

  Returns:
    [B, N, the other axis of a, the other axis of b].
  """
  dtype = at_least_float32(a.dtype, b.dtype)
  axes = tuple((axis + 4,) for axis in contracted)
  return jax.lax.dot_general(
    a,
    b,
    (axes, ((0, 1), (0, 1))),
    precision=precision,
    preferred_element_type=dtype,
    out_sharding=_summed(a, b, contracted),
  )


def _summed(a, b, contracted):
  """The sharding of a product that is summed over devices; None: JAX knows."""
  shardings = jax.typeof(a).sharding, jax.typeof(b).sharding
  if shardings[0].spec[contracted[0]] is None:
    return None
  # The free axes are those that are not contracted: -1 and -2 sum to -3.
  free = (
    x.spec[-3 - axis] for x, axis in zip(shardings, contracted, strict=True)
  )
  spec = jax.sharding.PartitionSpec(*shardings[0].spec[:2], *free)
  return jax.sharding.NamedSharding(shardings[0].mesh, spec)


def take(x: jax.Array, start: Any, size: int, axis: int) -> jax.Array:
  """Cuts a piece out of an axis, or leaves one of length 1 to broadcast."""
  if x.shape[axis] == 1:
    return x
  return jax.lax.dynamic_slice_in_dim(
    x, start, size, axis, allow_negative_indices=False
  )
