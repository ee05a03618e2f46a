"""The memory of a gradient, counted without a compiler.

What a backward pass needs of the forward pass is in the derivative that JAX has
made before XLA sees it. To this comes what the backward pass has at hand while
it computes: three more of the largest array, and of chunks the gradient of a
weight before it is added, and the states. XLA computes cheap things twice and
keeps others longer, so what it needs may be a third more or less.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from jax.extend.core import Literal

from slim.plan.options import Option

# Of these the result is another view of the one operand.
_VIEWS = ("convert_element_type", "reshape", "squeeze", "transpose")


class Kept(NamedTuple):
  """What a backward pass is given; bytes."""

  total: int
  largest: int  # Of its arrays.


def kept(fn: Callable[..., Any], *args: Any) -> Kept:
  """Counts what differentiating a function keeps for its backward pass.

  Args:
    fn: A differentiable function.
    *args: Its arguments: arrays, or `jax.ShapeDtypeStruct`s. What of them is
      kept is there already, and does not count.

  Returns:
    The bytes.
  """
  jaxpr = jax.make_jaxpr(lambda *args: jax.tree.leaves(jax.vjp(fn, *args)[1]))(
    *args
  ).jaxpr
  roots = {}
  for equation in jaxpr.eqns:
    if equation.primitive.name in _VIEWS:
      [x] = [x for x in equation.invars if not isinstance(x, Literal)]
      roots[equation.outvars[0]] = roots.get(x, x)
  arrays = {
    roots.get(x, x) for x in jaxpr.outvars if not isinstance(x, Literal)
  }
  sizes = [tree_bytes(x.aval) for x in arrays - set(jaxpr.invars)]
  return Kept(sum(sizes), max(sizes, default=0))


def activation_bytes(
  option: Option,
  *,
  kept: Kept,
  state_bytes: int,
  sequence_bytes: int,
  num_chunks: int,
  params: Any,
) -> int:
  """Adds up the activations of a gradient.

  Args:
    option: How it is computed.
    kept: Of the whole sequence, or of "slim" of one chunk.
    state_bytes: Of the state between chunks.
    sequence_bytes: Of what is cut into chunks, which loops take a copy of that
      are differentiated by JAX.
    num_chunks: N.
    params: The parameters, or their shapes.

  Returns:
    The bytes.
  """
  backward = kept.total + 3 * kept.largest
  if option.method != "slim":
    return backward
  weights = list(map(tree_bytes, jax.tree.leaves(params)))
  states = {
    "rewind": 2,  # One, and its cotangent.
    "store": num_chunks + 1,
    "sqrt": 2 * math.isqrt(num_chunks) + 1,
  }[option.policy]
  copies = 0 if option.policy == "rewind" else sequence_bytes
  sums = sum(weights) if option.policy == "sqrt" else 0
  states *= state_bytes
  return backward + max(weights, default=0) + states + copies + sums


def tree_bytes(tree: Any) -> int:
  """The bytes of all arrays of a pytree, or of their shapes."""
  return sum(
    math.prod(x.shape) * getattr(x.dtype, "itemsize", 8)
    for x in jax.tree.leaves(tree)
  )
