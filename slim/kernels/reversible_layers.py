"""A reversible residual sequence: two activations, whatever the depth.

There are two streams, and each sublayer adds to one what it makes of the other:

  (x1, x2) → (x2, x1 + f(x2)).

Two sublayers are a layer of RevNet. The backward pass finds x1 again as what
the sublayer returned less f(x2), and differentiates f where it computes it
anew. What f must not compute anew, such as the buckets of a hash, it hands over
to itself.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax

from slim.kernels._reversible_arguments import (
  check_entries,
  check_streams,
  check_y,
)
from slim.kernels.support.closures import (
  ClosureConverted,
  closure_to_arguments,
)
from slim.kernels.support.cotangents import (
  cotangent,
  first_order_only,
  inexact_leaves,
)
from slim.kernels.support.dtypes import at_least_float32
from slim.kernels.support.explicit_meshes import in_mesh_of_arguments
from slim.kernels.support.mesh_axes import (
  match_varying_axes,
  zeros_like,
)
from slim.kernels.support.not_inlined import not_inlined

Sublayer = Callable[[Any, jax.Array, Any, Any], tuple[jax.Array, Any, Any]]
Streams = tuple[jax.Array, jax.Array]


@in_mesh_of_arguments
def reversible(
  sublayers: Sequence[Sublayer],
  params: Sequence[Any],
  streams: Streams,
  contexts: Sequence[Any],
) -> tuple[Streams, list[Any]]:
  """Applies sublayers in turn; the gradient keeps none of their activations.

  Args:
    sublayers: Each is called as `f(params, x, context, replay)` and returns (y,
      out, replay): y like x, what it is added to; any further results `out`;
      and a pytree of integers, `replay`, which it gets when the backward pass
      calls it again, and has to act by. The first time replay is None. The
      second time x is the same but for rounding, so random numbers and
      decisions are to depend on the rest alone. It may close over arrays.
    params: For each a pytree of arrays and numbers.
    streams: x1 and x2, of one shape, float32 or wider, or complex.
    contexts: For each a pytree of arrays and numbers, such as a state or PRNG
      keys. They are kept for the backward pass.

  Returns:
    The two streams, the last changed one second; and the `out` of each
    sublayer. They have derivatives in reverse mode, the first only, in params,
    streams, contexts and what sublayers close over.

  Raises:
    ValueError: If the streams are narrower than float32 or differ in shape, if
      a sublayer returns a y of another shape, or a second derivative is asked
      for.

  Work: one forward pass more than without. Memory of the gradient beyond inputs
  and outputs: the activations of one sublayer, and all replays.

  Accuracy: x1 is found again to the rounding of one addition, and what comes
  before is computed from it: errors grow with the depth.

  References:
    Gomez et al., 2017 (RevNet), https://arxiv.org/abs/1707.04585;
    Kitaev et al., 2020 (Reformer), https://arxiv.org/abs/2001.04451, section 3.
  """
  return _reversible(sublayers, params, streams, contexts, is_scan=False)


@in_mesh_of_arguments
def reversible_scan(
  sublayers: Sequence[Sublayer],
  params: Sequence[Any],
  streams: Streams,
  contexts: Sequence[Any],
) -> tuple[Streams, list[Any]]:
  """Applies `reversible(sublayers, …)` L times, compiled once.

  Args:
    sublayers: As of `reversible`; those of one layer, an even number.
    params: As of `reversible`, with an axis of L before those of each array.
    streams: As of `reversible`.
    contexts: As of `reversible`, likewise with an axis of L.

  Returns:
    As `reversible`; each `out` with an axis of L.

  Raises:
    ValueError: As `reversible`, or if the number of sublayers is odd.
  """
  if len(sublayers) % 2:
    raise ValueError(
      f"sublayers must be an even number, which leaves both streams in their "
      f"places, got {len(sublayers)}"
    )
  return _reversible(sublayers, params, streams, contexts, is_scan=True)


class _Functions(NamedTuple):
  """What the custom derivative has to know that is not an array.

  The functions are traced; each takes what it once closed over first.
  """

  first: tuple[ClosureConverted, ...]
  again: tuple[ClosureConverted, ...]
  is_scan: bool


def _reversible(sublayers, params, streams, contexts, is_scan):
  check_entries(len(sublayers), params=params, contexts=contexts)
  streams = check_streams(*streams)
  params, streams, contexts = match_varying_axes(
    (list(params), streams, list(contexts))
  )
  of_layer = (params, contexts)
  if is_scan:
    of_layer = jax.tree.map(lambda x: x[0], of_layer)
  first, again, consts = [], [], []
  for f, its_params, context in zip(sublayers, *of_layer, strict=True):

    def start(params, x, context, f=f):
      return f(params, x, context, None)

    fn, fn_consts = closure_to_arguments(start, its_params, streams[0], context)
    check_y(len(first), fn.out[0], streams[0])
    redo, redo_consts = closure_to_arguments(
      f, its_params, streams[0], context, fn.out[2]
    )
    first.append(fn)
    again.append(redo)
    consts.append((fn_consts, redo_consts))
  functions = _Functions(tuple(first), tuple(again), is_scan)
  return _apply(functions, consts, params, streams, contexts)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _apply(functions, consts, params, streams, contexts):
  return _walk(functions, consts, params, streams, contexts)[:2]


def _walk(functions, consts, params, streams, contexts):
  """The streams, the outs, and the replays."""

  def layer(streams, params_and_contexts):
    one, two = streams
    outs, replays = [], []
    for fn, fn_consts, its_params, context in zip(
      functions.first, consts, *params_and_contexts, strict=True
    ):
      y, out, replay = not_inlined(fn, fn_consts[0], its_params, two, context)
      one, two = two, one + y.astype(one.dtype)
      outs.append(out)
      replays.append(replay)
    return (one, two), (outs, replays)

  if functions.is_scan:
    streams, found = jax.lax.scan(layer, streams, (params, contexts))
  else:
    streams, found = layer(streams, (params, contexts))
  return streams, *found


def _apply_fwd(functions, consts, params, streams, contexts):
  streams, outs, replays = _walk(functions, consts, params, streams, contexts)
  return (streams, outs), (consts, params, streams, contexts, replays)


def _apply_bwd(functions, residuals, cotangents):
  name = "reversible_scan" if functions.is_scan else "reversible"
  consts, params, streams, contexts, replays = first_order_only(
    residuals,
    f"{name} has first derivatives only; for a second derivative "
    "apply the sublayers one after the other",
  )
  streams_ct, outs_ct = cotangents
  closures = [redo_consts for _, redo_consts in consts]

  def undo(carry, of_layer):
    (one, two), (one_ct, two_ct), totals = carry
    cts = []
    for i, (redo, closure, its_params, context, replay, out_ct) in reversed(
      list(enumerate(zip(functions.again, closures, *of_layer, strict=True)))
    ):
      inputs = (closure, its_params, one, context)
      y, (closure_ct, params_ct, (x_ct,), context_ct) = not_inlined(
        partial(_pull_back, redo),
        inputs,
        replay,
        two_ct,
        inexact_leaves(out_ct),
      )
      totals = [*totals]
      totals[i] = [
        total + ct.astype(total.dtype)
        for total, ct in zip(totals[i], closure_ct, strict=True)
      ]
      one, two = two - y, one
      one_ct, two_ct = two_ct, one_ct + x_ct
      cts.append((params_ct, context_ct))
    return ((one, two), (one_ct, two_ct), totals), cts[::-1]

  totals = [
    [zeros_like(x, at_least_float32(x.dtype)) for x in inexact_leaves(closure)]
    for closure in closures
  ]
  carry = (streams, streams_ct, totals)
  of_layers = (params, contexts, replays, outs_ct)
  if functions.is_scan:
    carry, cts = jax.lax.scan(undo, carry, of_layers, reverse=True)
  else:
    carry, cts = undo(carry, of_layers)
  _, streams_ct, totals = carry
  params_ct, contexts_ct = (sum(x, []) for x in zip(*cts, strict=True))
  return (
    [
      # What the forward walk closed over, the backward walk has differentiated.
      (None, cotangent(closure, total))
      for closure, total in zip(closures, totals, strict=True)
    ],
    cotangent(params, params_ct),
    streams_ct,
    cotangent(contexts, contexts_ct),
  )


def _pull_back(redo, inputs, replay, y_ct, out_ct):
  """Computes a sublayer anew: y, and the cotangents of its floats."""

  def run(closure, params, x, context):
    y, out, _ = redo(closure, params, x, context, replay)
    return y.astype(x.dtype), out

  (y, out), vjp = jax.vjp(run, *inputs)
  return y, [inexact_leaves(ct) for ct in vjp((y_ct, cotangent(out, out_ct)))]


_apply.defvjp(_apply_fwd, _apply_bwd)
