"""Scan a model over chunks of a sequence, with O(C) activation memory.

`scan` is `jax.lax.scan` over chunks of a sequence. The policy says how the
backward pass finds the state that each chunk started from:

  policy     states kept       work    for
  "store"    N, one a chunk    4 F     any step
  "sqrt"     about 2 √N        5 F     any step
  "rewind"   1, the last       4 F     a step that can be undone

With "rewind", parts of the state that cannot be undone may be `kept`: they are
stored as with "store".

  part of the state            how it comes back      memory for N chunks
  sums without decay           subtracted again       none
  append-only cache            position moved back    none beside the cache
  position                     counted back           none
  state with decay             kept                   N states
  last tokens: window, conv    kept                   N windows

F is the work of a forward pass. Plain differentiation costs 3 F and keeps the
activations of all tokens. All policies keep those of one chunk. To sum a loss
and differentiate it, use `slim.kernels.sum_and_grad`: the same gradient for
less work.

If C does not divide T, the *first* chunk is the short one and runs outside the
loop, so nothing is padded.
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
  kept: Any = False,
) -> tuple[Any, Any]:
  """Runs `step` over the chunks of a sequence, differentiably in O(C) memory.

  state_i, out_i = step(params, state_{i-1}, chunk_i),   i = 1 … N.

  The gradient with respect to all floating-point and complex leaves of
  `params`, `state` and `xs` is that of the whole sequence. Nothing is
  truncated. Integers, booleans and PRNG keys may be anywhere in them. `step`
  may close over arrays, which are differentiated too, and over PRNG keys.
  Randomness must depend on the position in the sequence, not on the chunk, or
  it changes with C.

  Args:
    step: `step(params, state, chunk) -> (state, out)`. It keeps the structure,
      shapes and dtypes of the state.
    params: Any pytree of arrays and numbers. Inside `shard_map`, gradients of
      `params` are all-reduced once. Gradients of arrays that `step` closes over
      are all-reduced once per chunk, and with "store" and "sqrt" summed in the
      dtype of the array, so pass large or 16-bit arrays through `params`. If
      `jax.jit` alone distributes a batch over a mesh, XLA all-reduces all
      gradients once per chunk: use `shard_map`.
    state: Any pytree of arrays and numbers, the state before the first token.
      A Python number takes the dtype that `step` returns for it.
    xs: Pytree of arrays with T ≥ 1 tokens along `axis`, which is cut into
      chunks. Other axes may have length 0.
    chunk_size: C, tokens. The last N - 1 chunks have C tokens, the first has
      the remainder. C ≥ T makes one chunk: `step` alone, differentiated by JAX.
    axis: The axis of time in `xs` and in the `out` of `step`.
    policy: "store", "sqrt" or "rewind". "store" is
      `lax.scan(jax.checkpoint(step))`, "sqrt" nests it twice. "rewind" keeps
      only the final state, and has first derivatives in reverse mode only.
    rewind: Needed by policy "rewind": `rewind(params, state_after, chunk) ->
      (state_before, out, state_after)`. It recomputes the step. Its derivative
      with respect to `state_after` must be the one with respect to the state
      before, as `rewind_prefix_sums` makes it. It gets the leaves that are
      `kept` as they were before the chunk. In bfloat16, compile with the
      option xla_allow_excess_precision=False, or XLA may round the two
      differently.
    kept: For policy "rewind", pytree of booleans: the leaves of the state that
      are stored before each chunk, and that `rewind` need not undo. It has the
      structure of the state, or a prefix of it; True means all leaves.

  Returns:
    state: The state after the last token.
    outs: The `out` of all chunks, concatenated along `axis`. To sum over each
      chunk, return the sum with a time axis of length 1: N sums come back.

  Raises:
    ValueError: If an argument does not fit, or if a second derivative is taken
      with policy "rewind".

  Memory of the gradient beyond inputs and outputs: the activations of C tokens,
  the states in the table above, and the cotangent of one. "sqrt" needs a second
  gradient of `params`, and so does "store" if C does not divide T. "rewind"
  makes no copy of `xs`.

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
      kept,
      "scan with policy 'rewind' has first derivatives only; for a second "
      "derivative choose policy 'sqrt' or 'store'",
    )
  if policy == "sqrt":
    return grouping_scan(step, params, state, xs, chunks)
  return storing_scan(step, params, state, xs, chunks)
