"""Sum loss and gradient over chunks, for `slim.kernels.sum_and_grad`."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from slim.kernels.chunk_scan._accumulation import (
  can_add_in_place,
  vjp_onto_totals,
)
from slim.kernels.chunk_scan._walks import WALKS
from slim.kernels.chunk_scan.chunks import Chunks
from slim.kernels.chunk_scan.kept_leaves import KeptLeaves
from slim.kernels.support.closures import ClosureConverted
from slim.kernels.support.cotangents import (
  cotangent,
  inexact_leaves,
  is_inexact,
)
from slim.kernels.support.custom_derivative import zeros_for_sum
from slim.kernels.support.mesh_axes import vary, zeros_like
from slim.kernels.support.opaque import opaque_one


class Walk(NamedTuple):
  """What the walks have to know that is not an array.

  Attributes:
    chunks: The cut of the sequence.
    policy: "store", "sqrt" or "rewind".
    kept: The leaves of the state that `back` gets as they are before a chunk.
    first: Steps over a short first chunk; None if all chunks are equal.
    later: Steps over another chunk.
    first_back: Steps over the first chunk again, from a state whose leaves are
      those before the chunk if they are kept, and those after it if not.
    back: Likewise for another chunk.
    in_place: Whether gradients of stacked layers may be added to a `jax.Ref`.
  """

  chunks: Chunks
  policy: str
  kept: KeptLeaves
  first: ClosureConverted | None
  later: ClosureConverted
  first_back: ClosureConverted | None
  back: ClosureConverted
  in_place: bool


class Arguments(NamedTuple):
  """The arrays of the walks; consts are what the functions closed over."""

  first_consts: list[Any]
  later_consts: list[Any]
  first_back_consts: list[Any]
  back_consts: list[Any]
  params: Any
  state: Any
  xs: Any


def sum_chunks(
  walk: Walk, args: Arguments
) -> tuple[tuple[jax.Array, Any], list[jax.Array]]:
  """Sums loss and aux over the chunks, and the gradient.

  Args:
    walk: What to do.
    args: The arrays.

  Returns:
    The sums (loss, aux), and the gradient of the loss in the inexact leaves of
    `params`, float32 or wider.
  """
  if walk.chunks.num_later == 0:
    return _sum_one_chunk(walk, args)
  invars = walk.back.jaxpr.invars[: len(jax.tree.leaves(args.params))]
  in_place = [
    walk.in_place and can_add_in_place(walk.back.jaxpr, var)
    for var, x in zip(invars, jax.tree.leaves(args.params), strict=True)
    if is_inexact(x)
  ]
  return _sum_chunks(walk, in_place, args)


def _sum_one_chunk(walk, args):
  """Differentiates the whole sequence at once."""

  def run(leaves):
    params = _with_inexact(args.params, leaves)
    return walk.first(args.first_consts, params, args.state, args.xs)[1]

  loss, vjp, aux = jax.vjp(run, inexact_leaves(args.params), has_aux=True)
  (gradient,) = vjp(zeros_like(loss) + 1)
  # As over several chunks: a sum of booleans or of int8 is an int32.
  return (loss, jax.tree.map(lambda x: x[None].sum(0), aux)), gradient


def _sum_chunks(walk, in_place, args):
  """As `sum_chunks`; `in_place` says which gradients are added to a Ref."""
  chunks, params, xs = walk.chunks, args.params, args.xs
  leaves = inexact_leaves(params)

  def forward(state, i):
    *_, after = walk.later(
      args.later_consts, params, state, chunks.later(xs, i)
    )
    return after

  def back(fn, consts, chunk, state, state_ct, totals):
    """Differentiates a chunk; returns the state before it on the way."""

    def run(leaves, state):
      before, (loss, aux), after = fn(
        consts, _with_inexact(params, leaves), state, chunk
      )
      return (loss, after), (before, aux)

    (loss, after), add_vjp, (before, aux) = vjp_onto_totals(
      run, leaves, totals, in_place, state
    )
    totals, state_ct = add_vjp(
      (zeros_like(loss) + 1, cotangent(after, state_ct))
    )
    return (before, inexact_leaves(state_ct), totals), (loss, aux)

  def back_later(i, *carry):
    return back(walk.back, args.back_consts, chunks.later(xs, i), *carry)

  start = args.state
  if walk.first is not None:
    *_, start = walk.first(args.first_consts, params, start, chunks.first(xs))
  # No later token depends on the final state.
  state_ct = list(map(zeros_like, inexact_leaves(start)))
  # Gradients are summed over the chunks in float32 or wider, and rounded once.
  totals = zeros_for_sum(leaves)
  nothing = _zeros_of_outs(walk.back)
  undone, state_ct, totals, outs = WALKS[walk.policy](
    forward,
    back_later,
    chunks.num_later,
    start,
    walk.kept,
    state_ct,
    totals,
    nothing,
  )
  if walk.first is not None:
    state = walk.kept.merge(walk.kept.select(args.state), undone)
    first_outs, totals = _first(
      walk, args, back, state, state_ct, totals, nothing
    )
    outs = jax.tree.map(
      lambda x, xs: jnp.concatenate([x[None], xs]), first_outs, outs
    )
  return jax.tree.map(lambda x: x.sum(0), outs), totals


def _first(walk, args, back, state, state_ct, totals, nothing):
  """Differentiates the short first chunk."""

  def turn(start, carry):
    _, totals = carry
    chunk = walk.chunks.first(args.xs, start=start)
    (_, _, totals), outs = back(
      walk.first_back, args.first_back_consts, chunk, state, state_ct, totals
    )
    return outs, totals

  # A loop of one turn. XLA does not merge it with the forward pass, whose
  # activations would be kept, and adds to the totals in place.
  return jax.lax.fori_loop(
    0, opaque_one((state_ct, totals)), turn, (nothing, totals)
  )


def _zeros_of_outs(back):
  """Makes zeros like the loss and aux of a chunk, of the same types on a mesh.

  Args:
    back: A function as `Walk.back`, which returns them between two states.
  """
  before, outs, _ = back.out
  start = len(jax.tree.leaves(before))
  leaves, structure = jax.tree.flatten(outs)
  avals = [x.aval for x in back.jaxpr.outvars[start : start + len(leaves)]]
  return structure.unflatten(
    vary(jnp.zeros(x.shape, x.dtype), x.manual_axis_type.varying) for x in avals
  )


def _with_inexact(tree, leaves):
  """Replaces the inexact leaves of a tree."""
  leaves = iter(leaves)
  return jax.tree.map(lambda x: next(leaves) if is_inexact(x) else x, tree)
