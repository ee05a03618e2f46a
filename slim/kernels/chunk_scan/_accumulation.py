"""Add the gradient of a chunk to the totals over all chunks."""

from collections.abc import Callable
from typing import Any

import jax
from jax.extend import core

from slim.kernels.chunk_scan._ordered_sums import add_in_turn
from slim.kernels.support.dtypes import at_least_float32


def vjp_onto_totals(
  fn: Callable[..., Any],
  leaves: list[jax.Array],
  totals: list[jax.Array],
  in_place: list[bool],
  state: Any,
) -> tuple[Any, Callable[[Any], tuple[list[jax.Array], Any]], Any]:
  """Differentiates a chunk, and adds the gradient of `leaves` to `totals`.

  A gradient that a scan over layers stacks is as large as all layers. Beside
  the total it would take as much memory again, so it is added to a `jax.Ref`
  of the total, layer by layer, where `in_place` says so.

  Args:
    fn: `fn(leaves, state) -> (out, aux)`.
    leaves: The differentiable parameters.
    totals: For each the sum of the gradients of other chunks.
    in_place: For each whether its gradient may be added to a Ref.
    state: Pytree of arrays.

  Returns:
    out: As `jax.vjp`.
    add_vjp: `add_vjp(cotangent) -> (totals, state_ct)`.
    aux: As `jax.vjp`.
  """
  out, vjp, aux = jax.vjp(fn, leaves, state, has_aux=True)

  def add_vjp(ct):
    # `with_refs` returns the cotangent of each target that is not a Ref.
    targets = [
      jax.new_ref(total) if place else total
      for total, place in zip(totals, in_place, strict=True)
    ]

    def pull_back():
      cts, state_ct = vjp.with_refs(targets, state)(ct)
      return _select(cts, in_place, False), state_ct

    sums, state_ct = add_in_turn(pull_back, _select(totals, in_place, False))
    refs, sums = map(jax.freeze, _select(targets, in_place, True)), iter(sums)
    return [next(refs if place else sums) for place in in_place], state_ct

  return out, add_vjp, aux


def _select(xs, in_place, wanted):
  """Returns those of the arrays that are added in place, or the others."""
  return [x for x, place in zip(xs, in_place, strict=True) if place == wanted]


def can_add_in_place(jaxpr: core.Jaxpr, var: core.Var) -> bool:
  """Tells whether a jaxpr uses a variable only to scan over its first axis.

  The gradient of another variable is as large as its total only once, not once
  per layer. A variable that is used twice would be rounded twice.

  Args:
    jaxpr: The jaxpr.
    var: One of its inputs.

  Returns:
    Whether a Ref of its cotangent saves memory. False if the body of the scan
    slices it, which fails for Refs with jax <= 0.10.2.
  """
  dtype = var.aval.dtype  # type: ignore[attr-defined]
  if dtype != at_least_float32(dtype):
    return False  # The total is wider.
  uses = _uses(jaxpr, var)
  if len(uses) != 1:
    return False
  ((eqn, i),) = uses
  if eqn.primitive.name not in ("jit", "scan"):
    return False
  inner = _body(eqn)
  if eqn.primitive.name == "jit":
    return can_add_in_place(inner, inner.invars[i])
  # Constants and carries of a scan have the same shape in its body.
  is_scanned = inner.invars[i].aval.shape != var.aval.shape  # type: ignore[attr-defined]
  return is_scanned and not _is_sliced(inner, inner.invars[i])


def _is_sliced(jaxpr, var):
  """Tells whether a slice is, or may be, taken of a variable."""
  for eqn, i in _uses(jaxpr, var):
    if eqn.primitive.name in ("slice", "cond", "while"):
      return True
    if eqn.primitive.name in ("jit", "scan"):
      inner = _body(eqn)
      if _is_sliced(inner, inner.invars[i]):
        return True
  return False


def _body(eqn):
  """Returns the jaxpr that an equation runs; it is closed in some versions."""
  jaxpr = eqn.params["jaxpr"]
  return getattr(jaxpr, "jaxpr", jaxpr)


def _uses(jaxpr, var):
  """Lists (equation, position) of each use of a variable."""
  return [
    (eqn, i) for eqn in jaxpr.eqns for i, x in enumerate(eqn.invars) if x is var
  ]
