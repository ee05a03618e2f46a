"""A plan for a step of one's own."""

from collections.abc import Callable
from typing import Any

import jax

from slim.config.byte_sizes import parse_size
from slim.kernels import scan
from slim.kernels.chunk_scan.chunks import Chunks
from slim.kernels.support.cotangents import inexact_leaves
from slim.plan.memory_estimate import (
  activation_bytes,
  kept,
  tree_bytes,
)
from slim.plan.options import list_options, relative_time
from slim.plan.search import (
  Plan,
  Row,
  search,
)
from slim.training.compiled import temporary_bytes
from slim.training.flops import count_matmul_flops
from slim.training.gradients import COMPILER_OPTIONS


def plan(
  step: Callable[..., tuple[Any, Any]],
  params: Any,
  state: Any,
  xs: Any,
  *,
  budget: str,
  axis: int = 1,
  rewind: Callable[..., tuple[Any, Any, Any]] | None = None,
  others: Any = (),
) -> Plan:
  """Finds the chunks in which the gradient of `slim.kernels.scan` fits.

  It is that of the sum of all outs, of which complex ones count with their real
  part, in `params`. Nothing is run.

  Args:
    step: As of `scan`.
    params: As of `scan`, or the shapes of it; likewise the other arguments.
    state: As of `scan`.
    xs: As of `scan`.
    budget: Of the device, or on CPUs of the process, such as "2GiB".
    axis: As of `scan`.
    rewind: As of `scan`; None: the policy of that name is not tried.
    others: Pytree of arrays, or their shapes, that are there besides, such as
      the state of an optimizer.

  Returns:
    The plan; `scan` takes `choice.option.arguments` of it, and with the policy
    "rewind" `rewind`, too. What is slower than the choice has its formula only.

  Raises:
    ValueError: If an argument does not fit.

  Cost: a compilation for each option that is too large.
  """
  Chunks.of(xs, 1, axis)  # Refuses what has no tokens.
  params, state, xs, others = jax.eval_shape(
    lambda *shapes: shapes, params, state, xs, others
  )
  length = jax.tree.leaves(xs)[0].shape[axis]
  weight_bytes = tree_bytes(params)
  # At least those of one product with each weight a token.
  flops = max(
    count_matmul_flops(step, params, state, xs), weight_bytes // 2 * length, 1
  )

  def make_row(option):
    size, num_chunks = option.cut(length)
    chunk = jax.tree.map(
      lambda x: jax.ShapeDtypeStruct(
        (*x.shape[:axis], size, *x.shape[axis + 1 :]), x.dtype
      ),
      xs,
    )
    return Row(
      option,
      relative_time(
        option, num_chunks=num_chunks, weight_bytes=weight_bytes, flops=flops
      ),
      activation_bytes(
        option,
        kept=kept(step, params, state, chunk),
        state_bytes=tree_bytes(state),
        sequence_bytes=tree_bytes(xs),
        num_chunks=num_chunks,
        params=params,
      ),
    )

  def compile_option(option):
    def total(params, state, xs):
      undo = rewind if option.policy == "rewind" else None
      _, outs = scan(
        step, params, state, xs, axis=axis, rewind=undo, **option.arguments
      )
      return sum((x.real.sum() for x in inexact_leaves(outs)), 0.0)

    gradient = jax.grad(total, allow_int=True)
    lowered = jax.jit(gradient).lower(params, state, xs)
    activations = temporary_bytes(lowered.compile(COMPILER_OPTIONS))
    return activations, activations

  policies = ("rewind", "store", "sqrt") if rewind else ("store", "sqrt")
  options = list_options(
    length, policies=policies, remat=False, reversible=False
  )
  whole, *cut = options
  whole = whole._replace(chunk_size=length, policy="store")  # For `scan`.
  rows = sorted(map(make_row, [whole, *cut]), key=lambda row: row.time)
  resident_bytes = {
    "arguments": tree_bytes((params, state, xs)),
    "gradients": tree_bytes(inexact_leaves(params)),
    "others": tree_bytes(others),
  }
  size = parse_size("budget", budget)
  return search(rows, size, resident_bytes, compile_option)
