"""Values that a compiler cannot take for constants."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from slim.kernels.support.explicit_meshes import is_sharded


def opaque_one(tree: Any) -> jax.Array | int:
  """Returns 1 as a function of the arrays, opaque to constant folding.

  XLA inlines a loop of one turn and a branch that is always taken. It may then
  merge a recomputation with the original, and keep all activations in between.

  Args:
    tree: Pytree of arrays, of which at least one is inexact and not empty.

  Returns:
    The int32 1; a Python 1 if all arrays are empty.
  """
  # An element of a sharded array is on one device; a sum is on all of them.
  unknown = [
    jnp.isnan(x.sum() if is_sharded(x) else x.ravel()[0])
    for x in jax.tree.leaves(tree)
    if x.size
  ]
  if not unknown:
    return 1
  return 1 + (jnp.stack(unknown).any().astype(jnp.int32) >> 1)


def tied(x: jax.Array, arrays: Sequence[jax.Array]) -> jax.Array:
  """Makes integers depend on arrays, for JAX.

  When JAX differentiates a loop, it computes before the loop what does not
  depend on the carry. If an inner loop runs over indices of blocks, it would
  compute and store the masks of all blocks.

  Args:
    x: Integers.
    arrays: Arrays of at least one axis.

  Returns:
    `x`, batched and sharded as before.
  """
  empty = [jax.lax.stop_gradient(array[..., :0]) for array in arrays]
  return jax.lax.optimization_barrier((x, empty))[0]
