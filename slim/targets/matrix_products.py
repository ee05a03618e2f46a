"""Matrix products of a function, found without running it."""

import math
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
from jax.extend.core import Literal


class MatrixProduct(NamedTuple):
  """A matrix product in a program.

  Attributes:
    times: How often it is computed.
    operations: Floating-point operations of one; a multiplication and its
      addition are 2.
    num_bytes: Of its operands and its result.
    precision: The least that was asked for: "float32", "tensorfloat32",
      "default", which each device reads in its own way, or "bfloat16", for
      operands of 16 bits.
  """

  times: int
  operations: int
  num_bytes: int
  precision: str


def list_matrix_products(
  function: Callable[..., Any], *args: Any
) -> list[MatrixProduct]:
  """Lists the matrix products of a function.

  Those in the body of a `scan`, and of a `while_loop` that counts up to a
  constant, are computed once per iteration. The body of another `while_loop`
  counts once, because its number of iterations is known only at run time. Of a
  `cond` the branch with most operations is listed.

  Args:
    function: A traceable function.
    *args: Its arguments: arrays, or `jax.ShapeDtypeStruct`s.

  Returns:
    The products of one call.

  Cost: one trace; nothing is compiled or run.
  """
  return _list(jax.make_jaxpr(function)(*args).jaxpr)


def count_operations(products: Iterable[MatrixProduct]) -> int:
  """Returns the floating-point operations of some products."""
  return sum(x.times * x.operations for x in products)


def count_matmul_flops(function: Callable[..., Any], *args: Any) -> int:
  """Counts the floating-point operations of a function's matrix products.

  Args:
    function: A traceable function; see `list_matrix_products`.
    *args: Its arguments: arrays, or `jax.ShapeDtypeStruct`s.

  Returns:
    The operations of one call.
  """
  return count_operations(list_matrix_products(function, *args))


def _list(jaxpr: Any) -> list[MatrixProduct]:
  """Lists the products of a jaxpr and of the jaxprs inside it."""
  found = []
  for equation in jaxpr.eqns:
    name, params = equation.primitive.name, equation.params
    inner = [
      _list(getattr(x, "jaxpr", x))  # A ClosedJaxpr holds a Jaxpr.
      for x in jax.tree.leaves(
        list(params.values()),
        is_leaf=lambda x: hasattr(x, "eqns") or hasattr(x, "jaxpr"),
      )
      if hasattr(x, "eqns") or hasattr(x, "jaxpr")
    ]
    if name == "dot_general":
      found.append(_product(equation))
    elif name == "cond":
      found += max(inner, key=count_operations)
    else:
      times = params["length"] if name == "scan" else 1
      if name == "while":
        times = _count_iterations(equation)
      found += [
        x._replace(times=times * x.times) for part in inner for x in part
      ]
  return found


def _count_iterations(equation: Any) -> int:
  """Counts those of a `while` from one constant to another; else returns 1."""
  condition = equation.params["cond_jaxpr"].jaxpr
  if [x.primitive.name for x in condition.eqns] != ["lt"]:
    return 1
  counter, stop = condition.eqns[0].invars
  if isinstance(counter, Literal) or not isinstance(stop, Literal):
    return 1
  # Its arguments are the constants of the condition, of the body, the carry.
  place = condition.invars.index(counter) + equation.params["body_nconsts"]
  start = equation.invars[place]
  return int(stop.val - start.val) if isinstance(start, Literal) else 1


def _product(equation: Any) -> MatrixProduct:
  """Describes a `dot_general`."""
  (contracted, _), _ = equation.params["dimension_numbers"]
  operands = [x.aval for x in equation.invars]
  result = equation.outvars[0].aval
  summed = math.prod(operands[0].shape[axis] for axis in contracted)
  return MatrixProduct(
    1,
    2 * summed * result.size,
    sum(x.size * x.dtype.itemsize for x in (*operands, result)),
    _precision(operands, equation.params["precision"]),
  )


def _precision(operands, precision):
  """Names the precision of a product."""
  num_bytes = max(x.dtype.itemsize for x in operands)
  if num_bytes != 4:
    return "bfloat16" if num_bytes < 4 else "float32"
  if not isinstance(precision, tuple):
    precision = (precision,)
  names = {
    jax.lax.Precision.HIGHEST: "float32",
    jax.lax.Precision.HIGH: "tensorfloat32",
  }
  return names.get(precision[0], "default")
