"""A scan over the chunks of a sequence whose gradient needs no activations.

`scan` is `jax.lax.scan` of a model over chunks of a sequence, with a choice of
how its gradient finds the states that the chunks started from:

  policy     states kept       work    for
  "store"    N, one a chunk    4 F     any step
  "sqrt"     about 2 √N        5 F     any step
  "rewind"   1, the last       4 F     a step that can be undone

(F is the work of a forward pass. Plain differentiation costs 3 F and keeps the
activations of all tokens; all policies keep those of one chunk.)

T is rarely a multiple of C. The short chunk is the first, and stands outside
the loop: it starts from the known initial state, so nothing is padded and
nothing has to be undone for it.
"""

from typing import Any

from slim.kernels.chunk_scan._rewinding import rewinding_scan
from slim.kernels.chunk_scan._storing import (
  grouping_scan,
  storing_scan,
)
from slim.kernels.chunk_scan.chunks import Chunks
from slim.kernels.chunk_scan.policies import check_policy, check_step
from slim.kernels.chunk_scan.step_types import RewindFn, StepFn
from slim.kernels.support.explicit_meshes import in_mesh_of_arguments
from slim.kernels.support.mesh_axes import match_varying_axes


@in_mesh_of_arguments
def scan(
  step: StepFn,
  params: Any,
  state: Any,
  xs: Any,
  *,
  chunk_size: int,
  axis: int = 1,
  policy: str = "store",
  rewind: RewindFn | None = None,
) -> tuple[Any, Any]:
  """Runs `step` over the chunks of a sequence, differentiably in O(C) memory.

  state_i, out_i = step(params, state_{i-1}, chunk_i),   i = 1 … N.

  The gradient with respect to all floating-point and complex leaves of
  `params`, `state` and `xs` is that of the whole sequence, exactly: nothing is
  truncated. Integers, booleans and PRNG keys may be anywhere in them. `step`
  may close over arrays, which are differentiated too, and over PRNG keys.
  Randomness has to be a function of the position in the sequence, not of the
  chunk, or it changes with C.

  Args:
    step: `step(params, state, chunk) -> (state, out)`. It keeps the structure,
      shapes and dtypes of the state.
    params: Any pytree of arrays and numbers. Inside `shard_map` their gradients
      are summed over the devices once; those of what the step closes over, once
      a chunk.
    state: Any pytree of arrays and numbers, the state before the first token.
      A Python number takes the dtype that `step` returns for it.
    xs: Pytree of arrays with T ≥ 1 tokens along `axis`, which is cut into
      chunks. Other axes may have length 0.
    chunk_size: C, tokens; the last N - 1 chunks have C tokens, the first the
      remainder. C ≥ T makes one chunk: `step` alone, differentiated plainly.
    axis: The axis of time in `xs` and in what `step` returns as `out`.
    policy: "store", "sqrt" or "rewind", see the head of this file. "store" is
      `lax.scan(jax.checkpoint(step))`, "sqrt" the same twice nested. "rewind"
      keeps the final state alone, and has first derivatives in reverse mode
      only.
    rewind: For the policy of that name: `rewind(params, state_after, chunk) ->
      (state_before, out, state_after)`. It recomputes the step, and its
      derivative with respect to `state_after` must be that with respect to the
      state before: see `rewind_prefix_sums`. In bfloat16 compile with the
      option xla_allow_excess_precision=False, or XLA may round one differently
      than the other.

  Returns:
    state: The state after the last token.
    outs: The `out` of all chunks, concatenated along `axis`. For a sum over
      each chunk, return it with a time axis of length 1: N sums come back.

  Raises:
    ValueError: If an argument does not fit, or a second derivative is asked
      of the policy "rewind".

  Memory of the gradient beyond inputs and outputs: the activations of C tokens,
  and N states ("store"), about 2 √N and a second gradient of `params` ("sqrt")
  or 3 states ("rewind"). No copy of `xs` under "rewind". On x86 CPUs with
  jax ≤ 0.11.0 "store" and "sqrt" keep the activations of a short first chunk
  besides: where C divides T there is none.

  References:
    Likhosherstov et al., 2021 (SLiM), Algorithm 1,
    https://arxiv.org/abs/2012.11346.
  """
  check_policy(policy, rewind)
  chunks = Chunks.of(xs, chunk_size, axis)
  params, state, xs = match_varying_axes((params, state, xs))
  state, out = check_step(step, params, state, chunks.first(xs))
  chunks.check_out(
    out,
    "the out{} that step returns",
    "give a sum over the chunk a time axis of length 1, as in x.reshape(1, 1)",
  )
  if chunks.num_later == 0:
    return step(params, state, xs)
  if policy == "rewind":
    return rewinding_scan(
      step,
      rewind,
      params,
      state,
      xs,
      chunks,
      "scan with policy 'rewind' has first derivatives only; for a second "
      "derivative choose policy 'sqrt' or 'store'",
    )
  if policy == "sqrt":
    return grouping_scan(step, params, state, xs, chunks, out)
  return storing_scan(step, params, state, xs, chunks, out)
