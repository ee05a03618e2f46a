"""Types of arrays inside `shard_map`: which mesh axes they vary over.

`jax.shard_map` tracks for each array whether its values differ between the
devices along a mesh axis ("varying") or not. A loop carry must have one such
type from beginning to end. Outside `shard_map` nothing varies, and these
functions leave the types as they are.
"""

from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp

from slim.kernels.support.explicit_meshes import (
  is_sharded,
  shard_alike,
)


def match_varying_axes(tree: Any) -> Any:
  """Casts all leaves to vary over every mesh axis that any leaf varies over.

  The derivative of this cast is a sum over the devices (an all-reduce). Cast
  before a loop, so that the sum is computed once and not in every iteration.

  Args:
    tree: Pytree of arrays and numbers.

  Returns:
    The same pytree of JAX arrays. A Python number keeps its weak type.
  """
  tree = jax.tree.map(jnp.asarray, tree)
  axes = frozenset().union(*(_varying(x) for x in jax.tree.leaves(tree)))
  return jax.tree.map(lambda x: vary(x, axes), tree)


def vary(x: jax.Array, axes: Iterable[str]) -> jax.Array:
  """Casts an array to vary over some mesh axes, if it does not yet.

  Args:
    x: The array.
    axes: Names of mesh axes. Without the checks of `shard_map` nothing varies,
      and nothing is cast.

  Returns:
    The same values.
  """
  missing = tuple(set(axes) - _varying(x))
  return jax.lax.pcast(x, missing, to="varying") if missing else x


def vary_alike(x: jax.Array, y: jax.Array) -> bool:
  """Tells whether two arrays vary over the same mesh axes."""
  return _varying(x) == _varying(y)


def zeros_like(
  x: jax.Array, dtype: Any = None, *, like: jax.Array | None = None
) -> jax.Array:
  """Makes zeros with the shape and sharding of `x`.

  Args:
    x: The array to imitate.
    dtype: Dtype of the zeros. Default: that of `x`.
    like: The zeros vary over the mesh axes of this array. Default: `x`.

  Returns:
    The zeros.
  """
  varying = _varying(x if like is None else like)
  return vary(jnp.zeros_like(x, dtype), varying)


def varying_full(
  shape: tuple[int, ...], value: Any, dtype: Any, *, like: jax.Array
) -> jax.Array:
  """Makes a constant array that can be the initial carry of a loop over `like`.

  Args:
    shape: Its shape. It starts with all axes of `like` except the last.
    value: The value of all elements.
    dtype: Its dtype.
    like: The result varies over the same mesh axes, and its first axes are
      sharded as those of `like`.

  Returns:
    The array.
  """
  x = jnp.full(shape, value, dtype)
  if is_sharded(like):
    x = shard_alike(x, like[..., 0])
  return vary(x, _varying(like))


def _varying(x):
  return jax.typeof(x).manual_axis_type.varying
