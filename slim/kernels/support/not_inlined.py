"""Compile a function as a unit, apart from the program around it.

XLA may reorder an inlined program so that many layers hold temporary memory at
once. On CPUs and GPUs it allocates the initial zeros of the loops of all layers
first, and on TPUs it recomputes many layers before it differentiates one (jax
0.10 to 0.12).
"""

import collections
import functools
from collections.abc import Callable
from typing import Any

import jax
from jax.experimental.xla_metadata import set_xla_metadata


def not_inlined(
  fn: Callable[..., Any], *args: Any, updates_state: bool = False
) -> Any:
  """Returns fn(*args), compiled to a call that is not inlined.

  Its temporary memory is allocated at the call and freed at the return, and
  nothing in it is merged with an equal computation outside. Two equal calls may
  be merged. TPUs inline all calls, so there it starts when all arguments are
  there, and what follows waits for all of its results.

  Args:
    fn: Returns a pytree of arrays. It may close over arrays.
    *args: Pytrees of arrays.
    updates_state: Whether `fn` returns a state that a loop may carry. It is
      then inlined on GPUs, where XLA fails ("A cycle is detected") if a call
      computes the rounding error of a sum that the loop carries.

  Returns:
    The value. Its derivative is inlined.
  """
  fn = jax.jit(fn)

  def as_call(*args):
    return set_xla_metadata(fn(*args), inlineable="false")

  def between_barriers(*args):
    return _barrier(fn(*_barrier(args)))

  return jax.lax.platform_dependent(
    *args,
    cpu=as_call,
    tpu=between_barriers,
    cuda=fn if updates_state else as_call,
    default=fn,
  )


def _barrier(tree):
  """Keeps operations from being moved, and the types of arrays on a mesh.

  In `shard_map`, a barrier makes all arrays vary over the axes of each of them.
  """
  leaves, structure = jax.tree.flatten(tree)
  groups = collections.defaultdict(list)
  for i, x in enumerate(leaves):
    axes = frozenset(jax.typeof(x).manual_axis_type.varying)
    groups[axes].append(i)
  for group in groups.values():
    together = jax.lax.optimization_barrier([leaves[i] for i in group])
    for i, x in zip(group, together, strict=True):
      leaves[i] = x
  return structure.unflatten(leaves)


def checked_as_one(fn: Callable[..., Any]) -> Callable[..., Any]:
  """Makes `jax.debug_infs` and `jax.debug_nans` check only the result of `fn`.

  They check the result of every operation that is not compiled with others. A
  masked score is -inf before it becomes a weight of 0, which is no error.

  Args:
    fn: Any function of arrays and settings.

  Returns:
    The same function. While one of the checks is on, it is compiled.
  """

  @functools.wraps(fn)
  def checked(*args, **settings):
    if jax.config.jax_debug_infs or jax.config.jax_debug_nans:
      return jax.jit(lambda: fn(*args, **settings))()
    return fn(*args, **settings)

  return checked
