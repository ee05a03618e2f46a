"""Differentiate a step over the whole sequence at once, or over chunks."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from slim.kernels import scan
from slim.kernels.chunk_scan.step_types import RewindFn, StepFn
from slim.kernels.support.cotangents import inexact_leaves, is_inexact
from slim.training.gradients import COMPILER_OPTIONS

# Each program runs once, so LLVM's optimizations take longer than they save.
FAST_COMPILE_OPTIONS: dict[str, Any] = COMPILER_OPTIONS | {
  "xla_backend_optimization_level": 0,
  "xla_llvm_disable_expensive_passes": True,
}


class ScanCall(NamedTuple):
  """Arguments of `slim.kernels.scan`, without the chunk size."""

  step: StepFn
  params: Any
  state: Any
  xs: Any
  axis: int
  policy: str
  rewind: RewindFn | None
  kept: Any = False

  @property
  def length(self) -> int:
    """T, tokens."""
    return jax.tree.leaves(self.xs)[0].shape[self.axis]

  def run(
    self, params: Any, state: Any, xs: Any, chunk_size: int | None
  ) -> tuple[Any, Any]:
    """Computes (last state, outs).

    Args:
      params: Replaces those of the call.
      state: Likewise.
      xs: Likewise.
      chunk_size: C, tokens; None: one call of `step` on the whole sequence.

    Returns:
      The state after the last token, and the outs.
    """
    if chunk_size is None:
      # A step may return Python numbers.
      return jax.tree.map(jnp.asarray, self.step(params, state, xs))
    return scan(
      self.step,
      params,
      state,
      xs,
      chunk_size=chunk_size,
      axis=self.axis,
      policy=self.policy,
      rewind=self.rewind if self.policy == "rewind" else None,
      kept=self.kept,
    )


class Results(NamedTuple):
  """Values and gradients of a call."""

  outs: Any  # Outs that are sums over a chunk are added up over the chunks.
  state: Any  # After the last token.
  gradients: dict[str, Any]  # With respect to params, state and xs.


def differentiate(call: ScanCall, chunk_size: int | None) -> Results:
  """Computes outs, last state and a gradient that depends on all of them.

  The loss is Σ w · out + Σ w · state with fixed random weights w, one per
  token. Outs that are sums over a chunk have w = 1, so that the loss does not
  depend on the chunk size. The real and the imaginary part of a complex number
  have a weight each.

  Args:
    call: The call.
    chunk_size: C, tokens; None: plain differentiation of the step.

  Returns:
    Values and gradients.
  """
  length, axis = call.length, call.axis

  def has_tokens(x):
    return x.ndim > axis and x.shape[axis] == length

  def loss(params, state, xs):
    state, outs = call.run(params, state, xs, chunk_size)
    total = 0.0
    for i, x in enumerate(inexact_leaves(outs)):
      total += _dot(_draw_weights(i, x) if has_tokens(x) else _ones(x), x)
    for i, x in enumerate(inexact_leaves(state)):
      total += _dot(_draw_weights(i, x), x)
    outs = jax.tree.map(
      lambda x: x if has_tokens(x) else x.sum(axis, keepdims=True), outs
    )
    return total, (outs, state)

  gradient = jax.grad(loss, argnums=(0, 1, 2), has_aux=True, allow_int=True)
  cts, (outs, state) = compile_fast(gradient)(call.params, call.state, call.xs)
  inputs = {"params": call.params, "state": call.state, "xs": call.xs}
  gradients = {
    name: jax.tree.map(
      lambda x, ct: ct if is_inexact(x) else None, inputs[name], tree
    )
    for name, tree in zip(inputs, cts, strict=True)
  }
  return Results(outs, state, gradients)


def compile_fast(fn: Callable[..., Any]) -> Callable[..., Any]:
  """Compiles a function that runs a few times only."""
  return jax.jit(fn, compiler_options=FAST_COMPILE_OPTIONS)


def draw_normal(random: np.random.Generator, x: jax.Array) -> jax.Array:
  """Draws an array like `x` from N(0, 1), with both parts if complex."""
  values = random.normal(size=x.shape)
  if jnp.iscomplexobj(x):
    values = values + 1j * random.normal(size=x.shape)
  return jnp.asarray(values, x.dtype)


def _draw_weights(i, x):
  """Draws weights that depend on the index of an array and its shape alone."""
  return draw_normal(np.random.default_rng(i), x)


def _ones(x):
  """Returns weight 1 for the real and for the imaginary part."""
  return jnp.asarray(1 + 1j if jnp.iscomplexobj(x) else 1, x.dtype)


def _dot(weights, x):
  """Returns the weighted sum of the real and imaginary parts of `x`."""
  return (weights.conj() * x).real.sum()
