"""Estimate the activation memory of a gradient without compiling it.

The residuals of a backward pass are known once JAX has differentiated the
function, before XLA sees it. The estimate adds what the backward pass needs
while it runs: three buffers of the largest array and, with chunks, the gradient
of one weight before it is added up, and the states. XLA recomputes cheap
operations and keeps other values longer, so it may need a third more or less.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from jax.extend.core import Literal

from slim.plan.gradient_choice import GradientChoice
from slim.training.shapes import tree_bytes

# Primitives whose result XLA computes from their one operand, or aliases.
_VIEWS = ("convert_element_type", "reshape", "squeeze", "transpose")


class Residuals(NamedTuple):
  """What a forward pass keeps for its backward pass, in bytes."""

  total_bytes: int
  largest_bytes: int  # The largest array.


def count_residuals(fn: Callable[..., Any], *args: Any) -> Residuals:
  """Counts the residuals of a differentiated function.

  Args:
    fn: A differentiable function.
    *args: Its arguments: arrays, or `jax.ShapeDtypeStruct`s. Arguments that are
      residuals do not count, because they are in memory anyway. Where the
      code depends on the platform, that with most residuals counts.

  Returns:
    The bytes.
  """
  jaxpr = jax.make_jaxpr(lambda *args: jax.tree.leaves(jax.vjp(fn, *args)[1]))(
    *args
  ).jaxpr
  viewed: dict[Any, Any] = {}  # The array that a view is a view of.
  for equation in jaxpr.eqns:
    operands = [x for x in equation.invars if not isinstance(x, Literal)]
    if equation.primitive.name in _VIEWS and operands:
      viewed[equation.outvars[0]] = viewed.get(operands[0], operands[0])
  arrays = {
    viewed.get(x, x) for x in jaxpr.outvars if not isinstance(x, Literal)
  }
  arrays -= set(jaxpr.invars)
  for equation in jaxpr.eqns:
    if equation.params.get("branches_platforms"):
      arrays -= _of_other_branches(equation, arrays)
  sizes = [tree_bytes(x.aval) for x in arrays]
  return Residuals(sum(sizes), max(sizes, default=0))


def _of_other_branches(equation, arrays):
  """Residuals of all branches of a `cond` but the one that has most."""
  found = []
  for branch in equation.params["branches"]:
    # A branch returns constants for the residuals of the others.
    computed_by = {
      x: made.primitive.name for made in branch.eqns for x in made.outvars
    }
    found.append(
      {
        x
        for x, inside in zip(
          equation.outvars, branch.jaxpr.outvars, strict=True
        )
        if x in arrays
        and not isinstance(inside, Literal)
        and computed_by.get(inside) != "broadcast_in_dim"
      }
    )
  most = max(found, key=lambda xs: sum(tree_bytes(x.aval) for x in xs))
  return set().union(*found) - most


def estimate_activations(
  choice: GradientChoice,
  *,
  residuals: Residuals,
  state_bytes: int,
  kept_bytes: int,
  sequence_bytes: int,
  num_chunks: int,
  params: Any,
  by_scan: bool,
) -> int:
  """Estimates the activations of a gradient.

  Args:
    choice: How the gradient is computed.
    residuals: Those of the whole sequence or, for "slim", of one chunk.
    state_bytes: Bytes of the state between chunks.
    kept_bytes: Those of its leaves that "rewind" cannot undo.
    sequence_bytes: Bytes of the arrays that are cut into chunks. Loops that JAX
      differentiates copy them.
    num_chunks: N.
    params: The parameters, or their shapes.
    by_scan: Whether `slim.kernels.scan` is differentiated, which with "sqrt"
      needs a second gradient of the parameters. `sum_and_grad` does not.

  Returns:
    Bytes.
  """
  backward = residuals.total_bytes + 3 * residuals.largest_bytes
  if choice.method != "slim" or choice.policy is None:
    return backward
  weights = list(map(tree_bytes, jax.tree.leaves(params)))
  states = {
    # The state and its cotangent, and what is kept of each chunk.
    "rewind": 2 * state_bytes + (num_chunks - 1) * kept_bytes,
    "store": (num_chunks + 1) * state_bytes,
    "sqrt": (2 * math.isqrt(num_chunks) + 1) * state_bytes,
  }[choice.policy]
  copies = 0 if choice.policy == "rewind" else sequence_bytes
  gradient = sum(weights) if by_scan and choice.policy == "sqrt" else 0
  return backward + max(weights, default=0) + states + copies + gradient
