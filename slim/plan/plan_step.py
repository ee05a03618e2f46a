"""Plan the gradient of a step of `slim.kernels.scan`."""

import functools
from typing import Any

import jax

from slim.kernels import scan
from slim.kernels.chunk_scan.chunks import Chunks
from slim.kernels.chunk_scan.kept_leaves import KeptLeaves
from slim.kernels.chunk_scan.step_types import RewindFn, StepFn
from slim.kernels.support.cotangents import inexact_leaves
from slim.plan.budget import parse_budget
from slim.plan.gradient_choice import GradientChoice, list_choices
from slim.plan.memory_estimate import (
  count_residuals,
  estimate_activations,
)
from slim.plan.results import Candidate, Plan
from slim.plan.search import CompiledSize, search
from slim.plan.time_estimate import estimate_time
from slim.targets import HERE, Target
from slim.targets.matrix_products import MatrixProduct, list_matrix_products
from slim.training.gradients import COMPILER_OPTIONS
from slim.training.shapes import tree_bytes


def plan(
  step: StepFn,
  params: Any,
  state: Any,
  xs: Any,
  *,
  budget: str | None = None,
  target: Target = HERE,
  axis: int = 1,
  rewind: RewindFn | None = None,
  kept: Any = False,
  others: Any = (),
) -> Plan:
  """Finds the chunk size and policy whose gradient fits; nothing is run.

  The gradient is that of the sum of all outs in `params`. The real parts of
  complex outs are summed.

  Args:
    step: `step(params, state, chunk) -> (state, out)`, as for
      `slim.kernels.scan`.
    params: Pytree of arrays and numbers, or their shapes.
    state: Likewise, the state before the first token.
    xs: Likewise, with T ≥ 1 tokens along `axis`.
    budget: Memory of the device or, on CPUs, of the process, such as "2GiB".
      Default: the memory of the target.
    target: What to compile for, such as `Target("cuda:h100")`; this machine
      need not have it.
    axis: The axis of time.
    rewind: `rewind(params, state_after, chunk) -> (state_before, out,
      state_after)`. Pass it to include the policy "rewind".
    kept: The leaves of the state that "rewind" stores before each chunk, as for
      `slim.kernels.scan`.
    others: Pytree of arrays, or their shapes, that are also in memory, such as
      the state of an optimizer.

  Returns:
    The plan. Pass `**choice.gradient.scan_arguments` to `scan`, and, if the
    policy is "rewind", `rewind` and `kept`. Candidates slower than the choice
    are not compiled.

  Raises:
    ValueError: If an argument does not fit.

  Cost: one compilation per candidate that is too large, and one for the choice.
  """
  size = parse_budget("budget", budget, target)
  Chunks.of(xs, 1, axis)  # Raises if xs has no tokens.
  params, state, xs, others = jax.eval_shape(
    lambda *shapes: shapes, params, state, xs, others
  )
  length = jax.tree.leaves(xs)[0].shape[axis]
  weight_bytes = tree_bytes(params)
  leaves = KeptLeaves.of(kept, state)
  kept_bytes = tree_bytes(leaves.select(state))

  def chunk_of(chunk_size):
    return jax.tree.map(
      lambda x: jax.ShapeDtypeStruct(
        (*x.shape[:axis], chunk_size, *x.shape[axis + 1 :]), x.dtype
      ),
      xs,
    )

  @functools.cache
  def products(chunk_size: int) -> list[MatrixProduct]:
    return list_matrix_products(step, params, state, chunk_of(chunk_size))

  def make_candidate(choice: GradientChoice) -> Candidate:
    chunk_size, num_chunks = choice.cut(length)
    return Candidate(
      choice,
      estimate_time(
        choice,
        length=length,
        products=products,
        weight_bytes=weight_bytes,
        target=target,
      ),
      estimate_activations(
        choice,
        residuals=count_residuals(step, params, state, chunk_of(chunk_size)),
        state_bytes=tree_bytes(state),
        kept_bytes=kept_bytes,
        sequence_bytes=tree_bytes(xs),
        num_chunks=num_chunks,
        params=params,
        by_scan=True,
      ),
    )

  def compile_gradient(choice: GradientChoice) -> CompiledSize:
    def total(params, state, xs):
      undo = rewind if choice.policy == "rewind" else None
      _, outs = scan(
        step,
        params,
        state,
        xs,
        axis=axis,
        rewind=undo,
        kept=kept,
        **choice.scan_arguments,
      )
      return sum((x.real.sum() for x in inexact_leaves(outs)), 0.0)

    gradient = jax.grad(total, allow_int=True)
    compiled = target.compile(
      gradient, params, state, xs, options=COMPILER_OPTIONS
    )
    activation_bytes = target.temporary_bytes(compiled)
    return CompiledSize(activation_bytes, peak_bytes=activation_bytes)

  policies: tuple[str, ...] = ("store", "sqrt")
  if rewind and inexact_leaves(leaves.others(state)):  # Else it is "store".
    policies = ("rewind", *policies)
  full, *chunked = list_choices(
    length, policies=policies, remat=False, reversible=False
  )
  # `scan` runs "full" as one chunk.
  full = full._replace(chunk_size=length, policy="store")
  candidates = sorted(
    map(make_candidate, [full, *chunked]), key=lambda x: x.time.relative
  )
  resident_bytes = {
    "arguments": tree_bytes((params, state, xs)),
    "gradients": tree_bytes(inexact_leaves(params)),
    "others": tree_bytes(others),
  }
  return search(candidates, size, resident_bytes, compile_gradient, target)
