"""Arrays that are sharded over mesh axes of type `AxisType.Explicit`.

Their types say how they are sharded, and most operations know what follows for
their results. What they do not know is decided here.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp


def in_mesh_of_arguments(fn: Callable[..., Any]) -> Callable[..., Any]:
  """Lets `fn` run in the mesh of its arguments, if no other is set.

  JAX makes arrays of its own in a derivative, such as the zeros around what was
  sliced. It shards them if there is a mesh, which arguments do not set.

  Args:
    fn: A function of pytrees of arrays.

  Returns:
    The same function. Without a mesh of explicit axes nothing changes.
  """

  @functools.wraps(fn)
  def in_mesh(*args, **settings):
    # Eagerly, arrays bring their devices with them, and a mesh may not.
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
  """Shards a replicated array over an explicit mesh as `like` is sharded.

  A loop refuses a state that starts replicated and comes out sharded. Without
  a mesh of explicit axes nothing happens.

  Args:
    x: The array.
    like: Array or its type, of the shape of the first axes of `x`.

  Returns:
    `x`, of the same values.
  """
  if is_sharded(x) or not is_sharded(like):
    return x
  zeros = jnp.zeros_like(like, x.dtype)
  return x + zeros.reshape(*zeros.shape, *[1] * (x.ndim - zeros.ndim))


def by_shards(fn: Callable[..., Any], num_axes: int, *arrays: jax.Array) -> Any:
  """Computes `fn(*arrays)` by `shard_map` where they are explicitly sharded.

  Args:
    fn: A function without anything in common between the elements of the first
      axes.
    num_axes: How many those are.
    *arrays: They have the first axes in common, and so has the result.

  Returns:
    The result, sharded as the first array along the first axes.
  """
  if not is_sharded(arrays[0]):
    return fn(*arrays)
  sharding = jax.typeof(arrays[0]).sharding
  spec = jax.sharding.PartitionSpec(*sharding.spec[:num_axes])
  return jax.shard_map(fn, mesh=sharding.mesh, in_specs=spec, out_specs=spec)(
    *arrays
  )


def is_sharded(x: jax.Array) -> bool:
  """Tells whether an axis of `x` is sharded over an explicit mesh axis."""
  return any(axes is not None for axes in jax.typeof(x).sharding.spec)
