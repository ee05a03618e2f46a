"""Numbers that XLA cannot fold, to keep one computation apart from another."""

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
