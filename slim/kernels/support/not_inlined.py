"""What the compiler is to keep together: a function computed on its own.

Inlined, the operations of many layers are one program. The order in which a
compiler runs it may start all layers before it ends one: XLA's for CPUs begins
with the zeros that loops start from, those of all layers (jax 0.10 to 0.12).
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
from jax.experimental.xla_metadata import set_xla_metadata


def not_inlined(fn: Callable[..., Any], *args: Any) -> Any:
  """Returns fn(*args), on CPUs compiled to a call that is not inlined.

  So its temporary memory is taken when it is called and given back when it
  returns, and nothing in it is merged with an equal computation outside. Equal
  calls of equal arrays may be one. Compilers for accelerators order what they
  run by the memory it takes.

  Args:
    fn: Returns a pytree of arrays. It may close over arrays.
    *args: Pytrees of arrays.

  Returns:
    The value. What is differentiated is inlined again.
  """
  fn = jax.jit(fn)

  def as_call(*args):
    return set_xla_metadata(fn(*args), inlineable="false")

  return jax.lax.platform_dependent(*args, cpu=as_call, default=fn)


def checked_as_one(fn: Callable[..., Any]) -> Callable[..., Any]:
  """Lets `jax.debug_infs` and `jax.debug_nans` check what `fn` returns alone.

  They check the result of each operation that runs by itself. A score that is
  masked out is -inf on the way to a weight of 0, and that is no fault.

  Args:
    fn: Any function of arrays and settings.

  Returns:
    The same function; while JAX checks, it is compiled as a whole.
  """

  @functools.wraps(fn)
  def checked(*args, **settings):
    if jax.config.jax_debug_infs or jax.config.jax_debug_nans:
      return jax.jit(lambda: fn(*args, **settings))()
    return fn(*args, **settings)

  return checked
