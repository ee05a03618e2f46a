"""Compile a function as a unit, apart from the program around it.

XLA may reorder an inlined program so that many layers hold temporary memory at
once. On CPUs it allocates the initial zeros of the loops of all layers first
(jax 0.10 to 0.12).
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
from jax.experimental.xla_metadata import set_xla_metadata


def not_inlined(fn: Callable[..., Any], *args: Any) -> Any:
  """Returns fn(*args), compiled on CPUs to a call that is not inlined.

  Its temporary memory is allocated at the call and freed at the return, and
  nothing in it is merged with an equal computation outside. Two equal calls may
  be merged. On accelerators this does nothing: XLA schedules by memory there.

  Args:
    fn: Returns a pytree of arrays. It may close over arrays.
    *args: Pytrees of arrays.

  Returns:
    The value. Its derivative is inlined.
  """
  fn = jax.jit(fn)

  def as_call(*args):
    return set_xla_metadata(fn(*args), inlineable="false")

  return jax.lax.platform_dependent(*args, cpu=as_call, default=fn)


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
