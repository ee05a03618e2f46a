"""Support for mesh axes of type `AxisType.Explicit`.

There the sharding of an array is part of its type. Most operations derive the
sharding of their result. These functions handle the cases that do not.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp


def in_mesh_of_arguments(fn: Callable[..., Any]) -> Callable[..., Any]:
  """Makes `fn` run in the mesh of its arguments, if no other mesh is set.

  A derivative creates arrays, such as the zeros around a slice. JAX shards them
  only if a mesh is set, and arguments alone do not set one.

  Args:
    fn: A function of pytrees of arrays.

  Returns:
    The same function. Without a mesh of explicit axes nothing changes.
  """

  @functools.wraps(fn)
  def in_mesh(*args, **settings):
    # Only traced: eager arrays carry their devices, and a mesh would conflict.
    sharded = [
      x
      for x in jax.tree.leaves((args, settings))
      if isinstance(x, jax.core.Tracer) and is_sharded(x)
    ]
    if not sharded or not jax.sharding.get_abstract_mesh().empty:
      return fn(*args, **settings)
    with jax.sharding.use_abstract_mesh(jax.typeof(sharded[0]).sharding.mesh):
      return fn(*args, **settings)

  return in_mesh


def shard_alike(x: jax.Array, like: Any) -> jax.Array:
  """Shards a replicated array like another one.

  A loop refuses a carry that starts replicated and becomes sharded. Without a
  mesh of explicit axes this does nothing.

  Args:
    x: The array.
    like: Array, or its type. Its shape is that of the first axes of `x`.

  Returns:
    `x`, sharded.
  """
  if is_sharded(x) or not is_sharded(like):
    return x
  zeros = jnp.zeros_like(like, x.dtype)
  return x + zeros.reshape(*zeros.shape, *[1] * (x.ndim - zeros.ndim))


def shard_as_tokens(state: jax.Array, tokens: jax.Array) -> jax.Array:
  """Shards a state that may be replicated like the tokens that follow it.

  Args:
    state: [B, S, …].
    tokens: [B, T, …], sharded over any axes but that of T.

  Returns:
    The state; without a mesh of explicit axes unchanged.
  """
  if not is_sharded(tokens):
    return state
  return state + jnp.zeros_like(tokens[:, :1], state.dtype)


def by_shards(fn: Callable[..., Any], num_axes: int, *arrays: jax.Array) -> Any:
  """Computes `fn(*arrays)`, with `shard_map` if they are explicitly sharded.

  Args:
    fn: A function that treats all elements of its first axes independently.
    num_axes: The number of these axes.
    *arrays: All arrays, and the result, start with these axes.

  Returns:
    The result. Its first axes are sharded like those of the first array.
  """
  if not is_sharded(arrays[0]):
    return fn(*arrays)
  sharding = jax.typeof(arrays[0]).sharding
  spec = jax.sharding.PartitionSpec(*sharding.spec[:num_axes])
  return jax.shard_map(fn, mesh=sharding.mesh, in_specs=spec, out_specs=spec)(
    *arrays
  )


def is_sharded(x: jax.Array) -> bool:
  """Tells whether any axis of `x` is sharded over an explicit mesh axis."""
  return any(axes is not None for axes in jax.typeof(x).sharding.spec)
