"""Floating-point operations of a function, counted without running it."""

import math
from collections.abc import Callable
from typing import Any

import jax


def count_matmul_flops(function: Callable[..., Any], *args: Any) -> int:
  """Counts the floating-point operations of a function's matrix products.

  A multiplication and its addition count as 2 operations. The body of a `scan`
  counts once per iteration, and a `cond` counts its most expensive branch. The
  body of a `while_loop` counts once, because its number of iterations is known
  only at run time.

  Args:
    function: A traceable function.
    *args: Its arguments: arrays, or `jax.ShapeDtypeStruct`s.

  Returns:
    The operations of one call.

  Cost: one trace; nothing is compiled or run.
  """
  return _count(jax.make_jaxpr(function)(*args).jaxpr)


def _count(jaxpr: Any) -> int:
  """Counts the operations of a jaxpr and of the jaxprs inside it."""
  total = 0
  for equation in jaxpr.eqns:
    name, params = equation.primitive.name, equation.params
    inner = [
      _count(getattr(x, "jaxpr", x))  # A ClosedJaxpr holds a Jaxpr.
      for x in jax.tree.leaves(
        list(params.values()),
        is_leaf=lambda x: hasattr(x, "eqns") or hasattr(x, "jaxpr"),
      )
      if hasattr(x, "eqns") or hasattr(x, "jaxpr")
    ]
    if name == "dot_general":
      (contracted, _), _ = params["dimension_numbers"]
      shape = equation.invars[0].aval.shape
      summed = math.prod(shape[axis] for axis in contracted)
      total += 2 * summed * math.prod(equation.outvars[0].aval.shape)
    elif name == "scan":
      total += params["length"] * sum(inner)
    elif name == "cond":
      total += max(inner)
    else:
      total += sum(inner)
  return total
