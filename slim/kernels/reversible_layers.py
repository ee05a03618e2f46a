"""Reversible residual layers: activation memory independent of the depth.

There are two streams. Each sublayer updates one with a function of the other:

  (x1, x2) → (x2, x1 + f(x2)).

Two sublayers make a RevNet layer. The backward pass recovers x1 by subtracting
f(x2), which it recomputes and differentiates in the same step. A sublayer can
pass itself what must not be recomputed, such as the buckets of a hash.
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
  inexact_leaves,
)
from slim.kernels.support.custom_derivative import (
  add_to_sum,
  first_order_vjp,
  zeros_for_sum,
)
from slim.kernels.support.explicit_meshes import in_mesh_of_arguments
from slim.kernels.support.mesh_axes import match_varying_axes
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
  """Applies sublayers in turn; the gradient stores none of their activations.

  Args:
    sublayers: Each is called as `f(params, x, context, replay)` and returns (y,
      out, replay). y is added to the other stream and must be like x. `out` is
      any further result. `replay` is a pytree of integers: None in the forward
      pass, and in the backward pass what the forward pass returned, for the
      sublayer to repeat its decisions. In the backward pass x has a rounding
      error, so no decision and no random number may depend on it. A sublayer
      may close over arrays.
    params: One pytree of arrays and numbers per sublayer.
    streams: x1 and x2, of one shape and dtype: float32 or wider, or complex.
    contexts: One pytree of arrays and numbers per sublayer, such as a state or
      PRNG keys. They are stored for the backward pass.

  Returns:
    streams: The two streams. The one changed last is the second.
    outs: The `out` of each sublayer.
    Both are differentiable in reverse mode, once, with respect to `params`,
    `streams`, `contexts` and what sublayers close over.

  Raises:
    ValueError: If the streams are narrower than float32 or differ in shape or
      dtype, if a sublayer returns a y of another shape, or if the result is
      differentiated twice.

  Work of the gradient: one more forward pass.
  Memory of the gradient beyond inputs and outputs: the activations of one
  sublayer, and all replays.
  Accuracy: each recovered x1 has the rounding error of one addition, and the
  sublayers before are computed from it, so errors grow with the depth.

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
    sublayers: Those of one layer, an even number; see `reversible`.
    params: As in `reversible`, each array with a leading axis of L.
    streams: As in `reversible`.
    contexts: As in `reversible`, each array with a leading axis of L.

  Returns:
    streams: As from `reversible`.
    outs: As from `reversible`, each array with a leading axis of L.

  Raises:
    ValueError: As `reversible`, or if the number of sublayers is odd.
  """
  if len(sublayers) % 2:
    raise ValueError(
      "sublayers must be an even number, which leaves both streams in their "
      f"places, got {len(sublayers)}"
    )
  return _reversible(sublayers, params, streams, contexts, is_scan=True)


class _Functions(NamedTuple):
  """The static part of the custom derivative.

  The functions are traced. Each takes its former closure as first argument.
  """

  forward: tuple[ClosureConverted, ...]
  again: tuple[ClosureConverted, ...]
  is_scan: bool

  def over_layers(self, fn, carry, of_layers, reverse=False):
    """Applies `fn` to one layer, or scans it over all."""
    if self.is_scan:
      return jax.lax.scan(fn, carry, of_layers, reverse=reverse)
    return fn(carry, of_layers)


def _reversible(sublayers, params, streams, contexts, is_scan):
  check_entries(len(sublayers), params=params, contexts=contexts)
  streams = check_streams(*streams)
  params, streams, contexts = match_varying_axes(
    (list(params), streams, list(contexts))
  )
  of_layer = (params, contexts)
  if is_scan:
    of_layer = jax.tree.map(lambda x: x[0], of_layer)
  forward, forward_consts, again, again_consts = [], [], [], []
  for f, own_params, context in zip(sublayers, *of_layer, strict=True):

    def first_time(params, x, context, f=f):
      return f(params, x, context, None)

    args = own_params, streams[0], context
    fn, consts = closure_to_arguments(first_time, *args)
    y, _, replay = fn.out
    check_y(len(forward), y, streams[0])
    forward.append(fn)
    forward_consts.append(consts)
    fn, consts = closure_to_arguments(f, *args, replay)
    again.append(fn)
    again_consts.append(consts)
  functions = _Functions(tuple(forward), tuple(again), is_scan)
  return _apply(
    functions, forward_consts, again_consts, params, streams, contexts
  )


def _forward(
  functions, forward_consts, again_consts, params, streams, contexts
):
  """Returns (streams, outs), and what the backward pass needs."""

  def layer(streams, params_and_contexts):
    one, two = streams
    outs, replays = [], []
    for fn, consts, own_params, context in zip(
      functions.forward, forward_consts, *params_and_contexts, strict=True
    ):
      states = inexact_leaves(fn.out[1])
      run = partial(not_inlined, updates_state=bool(states))
      y, out, replay = run(fn, consts, own_params, two, context)
      one, two = two, one + y.astype(one.dtype)
      outs.append(out)
      replays.append(replay)
    return (one, two), (outs, replays)

  streams, (outs, replays) = functions.over_layers(
    layer, streams, (params, contexts)
  )
  residuals = again_consts, params, streams, contexts, replays
  return (streams, outs), residuals


def _backward(functions, residuals, cotangents):
  again_consts, params, streams, contexts, replays = residuals
  streams_ct, outs_ct = cotangents

  def layer(carry, of_layer):
    (one, two), (one_ct, two_ct), totals = carry
    totals, cts = [*totals], []
    for i, (fn, consts, own_params, context, replay, out_ct) in reversed(
      list(
        enumerate(zip(functions.again, again_consts, *of_layer, strict=True))
      )
    ):
      y, (consts_ct, params_ct, (x_ct,), context_ct) = not_inlined(
        partial(_pull_back, fn),
        (consts, own_params, one, context),
        replay,
        two_ct,
        inexact_leaves(out_ct),
      )
      totals[i] = add_to_sum(totals[i], consts_ct)
      one, two = two - y, one
      one_ct, two_ct = two_ct, one_ct + x_ct
      cts.append((params_ct, context_ct))
    return ((one, two), (one_ct, two_ct), totals), cts[::-1]

  totals = [zeros_for_sum(inexact_leaves(consts)) for consts in again_consts]
  (_, streams_ct, totals), cts = functions.over_layers(
    layer,
    (streams, streams_ct, totals),
    (params, contexts, replays, outs_ct),
    reverse=True,
  )
  params_ct, contexts_ct = ([ct[i] for ct in cts] for i in range(2))
  # The backward pass differentiates `again`, so `forward_consts` get nothing.
  return None, totals, params_ct, streams_ct, contexts_ct


def _pull_back(fn, inputs, replay, y_ct, out_ct):
  """Recomputes a sublayer: y, and the cotangents of its inexact inputs."""

  def run(consts, params, x, context):
    y, out, _ = fn(consts, params, x, context, replay)
    return y.astype(x.dtype), out

  (y, out), vjp = jax.vjp(run, *inputs)
  return y, [inexact_leaves(ct) for ct in vjp((y_ct, cotangent(out, out_ct)))]


def _refusal(functions):
  name = "reversible_scan" if functions.is_scan else "reversible"
  return (
    f"{name} has first derivatives only; for a second derivative "
    "apply the sublayers one after the other"
  )


_apply = first_order_vjp(_forward, _backward, _refusal)
