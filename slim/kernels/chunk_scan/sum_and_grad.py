"""Sum a loss over the chunks of a sequence and differentiate it in one go.

`slim.kernels.scan` does not know the cotangents of its outputs until the walk
forward has ended, so it computes all outputs twice. The cotangent of a summed
loss is 1. `sum_and_grad` therefore walks forward for the state alone: the last
layer's MLP, the logits and the loss are computed once, on the walk back.
"""

from typing import Any

import jax
import jax.numpy as jnp

from slim.kernels.chunk_scan._summing import Arguments, Walk, sum_chunks
from slim.kernels.chunk_scan.chunks import Chunks
from slim.kernels.chunk_scan.kept_leaves import KeptLeaves
from slim.kernels.chunk_scan.policies import check_policy, check_step
from slim.kernels.chunk_scan.step_types import RewindFn, StepFn
from slim.kernels.support.closures import closure_to_arguments
from slim.kernels.support.cotangents import cotangent, first_order_only
from slim.kernels.support.explicit_meshes import in_mesh_of_arguments
from slim.kernels.support.mesh_axes import match_varying_axes
from slim.kernels.support.shapes import check_alike


@in_mesh_of_arguments
def sum_and_grad(
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
  has_aux: bool = False,
  in_place: bool = True,
) -> tuple[Any, Any]:
  """Sums the losses of all chunks; returns the sum and its gradient.

  state_i, loss_i = step(params, state_{i-1}, chunk_i),   i = 1 … N,
  returns Σ_i loss_i and d/dparams Σ_i loss_i.

  The gradient is that of the whole sequence, as if `jax.value_and_grad` had
  differentiated `slim.kernels.scan`. It takes less time and no more memory.

  Args:
    step: `step(params, state, chunk) -> (state, loss)`, or `(state, (loss,
      aux))` with `has_aux`. The loss is a real scalar. The state keeps its
      structure, shapes and dtypes. Randomness must depend on the position in
      the sequence, not on the chunk.
    params: Any pytree of arrays and numbers. Inside `shard_map`, gradients of
      replicated `params` are all-reduced once; if `jax.jit` alone distributes
      a batch over a mesh, once per chunk.
    state: Any pytree of arrays and numbers, the state before the first token.
    xs: Pytree of arrays with T ≥ 1 tokens along `axis`.
    chunk_size: C, tokens. If C does not divide T, the first chunk is shorter.
    axis: The axis of time in `xs`.
    policy: "store", "sqrt" or "rewind", as for `slim.kernels.scan`.
    rewind: Needed by policy "rewind": `rewind(params, state_after, chunk) ->
      (state_before, loss, state_after)`, with (loss, aux) for loss if
      `has_aux`. Otherwise as for `slim.kernels.scan`.
    kept: For policy "rewind", the leaves of the state that are stored before
      each chunk, as for `slim.kernels.scan`.
    has_aux: Whether `step` also returns `aux`, any pytree of arrays.
    in_place: Whether gradients of layers that `step` scans over are added to
      the totals layer by layer. Pass False under `jax.vmap`, which cannot batch
      this. It then takes the memory of one more gradient of these layers.

  Returns:
    (loss, gradient), or ((loss, aux), gradient) with `has_aux`. Loss and aux
    are summed over the chunks. The gradient is like `params`. Integers,
    booleans and PRNG keys have gradients of dtype float0.

  Raises:
    ValueError: If an argument does not fit, or if anything differentiates the
      result.

  Memory beyond inputs and outputs: the activations of C tokens, the states of
  the policy (see `slim.kernels.scan`), and the cotangent of one. Gradients are
  summed in float32 or wider, and rounded once; in `shard_map`, once on each
  device, before they are added. `xs` is not copied.

  Work: 3 + s forward passes, or 3 + 2 s with policy "sqrt". s ≤ 1 is the share
  of a forward pass that the state needs.

  References:
    Likhosherstov et al., 2021 (SLiM), Algorithm 1,
    https://arxiv.org/abs/2012.11346.
  """
  check_policy(policy, rewind)
  chunks = Chunks.of(xs, chunk_size, axis)

  def vary(params):
    params, *others = match_varying_axes((params, state, xs))
    return params, others

  # The transpose of this cast sums the gradient over the devices.
  params, pull_back, (state, xs) = jax.vjp(vary, params, has_aux=True)

  def checked_step(params, state, chunk):
    state, out = step(params, state, chunk)
    return state, _loss_and_aux(out, has_aux, "step")

  def forward(params, before, chunk):
    after, out = checked_step(params, before, chunk)
    return before, out, after

  def backward(params, after, chunk):
    before, out, after = rewind(params, after, chunk)
    return before, _loss_and_aux(out, has_aux, "rewind"), after

  state, _ = check_step(checked_step, params, state, chunks.first(xs))
  leaves = KeptLeaves.of(kept if policy == "rewind" else True, state)
  walk, args = _trace(
    policy, leaves, forward, backward, chunks, in_place, params, state, xs
  )
  args = first_order_only(
    args,
    "the result of sum_and_grad has no derivatives; for a second derivative "
    "differentiate slim.kernels.scan with policy 'sqrt' or 'store'",
  )
  sums, totals = sum_chunks(walk, args)
  (gradient,) = pull_back(cotangent(params, totals))
  return (sums if has_aux else sums[0]), gradient


def _trace(
  policy, kept, forward, backward, chunks, in_place, params, state, xs
):
  """Traces each function once, with its closure as an argument."""

  def trace(fn, chunk):
    return closure_to_arguments(fn, params, state, chunk)

  def trace_back(chunk, stepped):
    """Traces what differentiates a chunk; `stepped` is what computes it."""
    if policy != "rewind" or not chunks.num_later:
      return stepped
    rewound = trace(backward, chunk)
    check_alike(
      "what rewind returns, (state_before, loss, state_after),",
      rewound[0].out,
      stepped[0].out,
    )
    return rewound

  first = first_back = None, []
  if chunks.num_later:
    chunks = chunks.merge_equal()
  if chunks.first_size:
    first = trace(forward, chunks.first(xs))
    first_back = trace_back(chunks.first(xs), first)
  later, back = first, first_back
  if chunks.num_later:
    later = trace(forward, chunks.later(xs, 0))
    back = trace_back(chunks.later(xs, 0), later)
    if chunks.first_size:
      check_alike(
        "what step returns for chunks of another length",
        first[0].out,
        later[0].out,
      )
  functions, consts = zip(first, later, first_back, back, strict=True)
  return Walk(chunks, policy, kept, *functions, in_place), Arguments(
    *consts, params, state, xs
  )


def _loss_and_aux(out, has_aux, name):
  """Checks what `step` or `rewind` returns beside the state."""
  if isinstance(out, tuple) != has_aux or (has_aux and len(out) != 2):
    expected = "(loss, aux), a tuple" if has_aux else "one number"
    raise ValueError(
      f"with has_aux={has_aux}, {name} must return {expected}, beside the "
      f"state, got {type(out).__name__}"
    )
  loss, aux = out if has_aux else (out, ())
  loss = jnp.asarray(loss)
  if loss.shape or not jnp.issubdtype(loss.dtype, jnp.floating):
    raise ValueError(
      f"the loss that {name} returns must be a real floating-point scalar, got "
      f"{loss.dtype}{list(loss.shape)}; sum it over the chunk"
    )
  return loss, jax.tree.map(jnp.asarray, aux)
