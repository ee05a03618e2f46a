"""Add gradients to sums layer by layer, not all at the end.

XLA for TPUs puts off all sums of a chunk to its end (jax 0.10). Until then the
gradients of all layers are in memory, or what they are computed from.
"""

import collections
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend import core, source_info_util

from slim.kernels.support.custom_derivative import add_to_sum


def add_in_turn(
  fn: Callable[[], tuple[list[jax.Array], Any]], totals: list[jax.Array]
) -> tuple[list[jax.Array], Any]:
  """Adds gradients to sums, each before the layers that are computed after it.

  An equation may return gradients beside arrays that other layers need, as the
  backward pass of a reversible layer does. Those layers then wait for the sums.

  Args:
    fn: `fn() -> (gradients, rest)`.
    totals: For each gradient the sum of others.

  Returns:
    (totals, rest).
  """
  closed, out = jax.make_jaxpr(fn, return_shape=True)()
  jaxpr = closed.jaxpr
  values = dict(zip(jaxpr.constvars, closed.consts, strict=True))
  found = jaxpr.outvars[: len(totals)]
  # A constant has no equation, and a variable may be several gradients: both
  # are added at the end.
  count = collections.Counter(x for x in found if isinstance(x, core.Var))
  total_of = {
    x: total
    for x, total in zip(found, totals, strict=True)
    if isinstance(x, core.Var) and count[x] == 1
  }
  sums: dict[core.Var, jax.Array] = {}
  for eqn in jaxpr.eqns:
    values |= zip(eqn.outvars, _evaluate(eqn, values), strict=True)
    added = [x for x in eqn.outvars if x in total_of]
    if added:
      others = [x for x in eqn.outvars if x not in total_of]
      new_sums, unchanged = jax.lax.optimization_barrier(
        (
          [add_to_sum(total_of[x], values[x]) for x in added],
          [values[x] for x in others],
        )
      )
      sums |= zip(added, new_sums, strict=True)
      values |= zip(others, unchanged, strict=True)
  results = [_value(x, values) for x in jaxpr.outvars]
  totals = [
    sums[x]
    if isinstance(x, core.Var) and x in sums
    else add_to_sum(total, jnp.asarray(gradient))
    for x, total, gradient in zip(found, totals, results, strict=False)
  ]
  _, rest = jax.tree.unflatten(jax.tree.structure(out), results)
  return totals, rest


def _evaluate(eqn, values):
  """Returns the results of an equation, which keeps its place in the source."""
  source = eqn.source_info
  names = source_info_util.current_name_stack() + source.name_stack
  with (
    source_info_util.user_context(source.traceback, name_stack=names),
    eqn.ctx.manager,
  ):
    results = eqn.primitive.bind(
      *(_value(x, values) for x in eqn.invars),
      **eqn.primitive.get_bind_params(eqn.params),
    )
  return results if eqn.primitive.multiple_results else [results]


def _value(x, values):
  """Returns the value of a variable or of a literal."""
  return values[x] if isinstance(x, core.Var) else x.val
