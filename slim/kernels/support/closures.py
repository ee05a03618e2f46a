"""Turn the arrays that a function closes over into an argument.

A custom derivative rule may not close over arrays that are being
differentiated. `jax.closure_convert` is the public tool for this, but it fails
on PRNG keys under grad(jit) and ignores arrays that are not yet traced.
"""

from collections.abc import Callable
from typing import Any

import jax
from jax.extend import core


class ClosureConverted:
  """A traced function of its former closure and its arguments.

  Attributes:
    jaxpr: The function; its constvars are the former closure.
    out: Pytree of `jax.ShapeDtypeStruct`, the type of its result.
  """

  def __init__(self, closed_jaxpr: core.ClosedJaxpr, out: Any):
    """Wraps a jaxpr whose constants are passed at each call."""
    self.jaxpr = closed_jaxpr.jaxpr
    self.out = out

  def __call__(self, consts: list[jax.Array], *args: Any) -> Any:
    """Calls the function with `consts` in place of its former closure."""
    run = core.jaxpr_as_fun(core.ClosedJaxpr(self.jaxpr, consts))
    leaves = run(*jax.tree.leaves(args))
    return jax.tree.unflatten(jax.tree.structure(self.out), leaves)


def closure_to_arguments(
  fn: Callable[..., Any], *args: Any
) -> tuple[ClosureConverted, list[jax.Array]]:
  """Traces `fn` and returns the arrays it closes over beside it.

  Args:
    fn: Any traceable function.
    *args: Pytrees of arrays, with the shapes of later calls.

  Returns:
    converted: `converted(consts, *args)` computes `fn(*args)`.
    consts: The arrays, tracers and PRNG keys that `fn` closes over.
  """
  closed_jaxpr, out = jax.make_jaxpr(fn, return_shape=True)(*args)
  return ClosureConverted(closed_jaxpr, out), list(closed_jaxpr.consts)
