"""The checks of a scan: values, gradients, rewound states and memory."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp

from slim.certify.certificate import Check
from slim.certify.distances import norm, relative_distance
from slim.certify.gradient_error import relative_errors
from slim.certify.gradients import FAST_COMPILE_OPTIONS, Results, ScanCall
from slim.certify.rewinding import decay_share, rewinding_error
from slim.kernels.chunk_scan.kept_leaves import KeptLeaves
from slim.kernels.support.cotangents import inexact_leaves, is_inexact
from slim.targets import Target

# Limit in float64. Sums over chunks and over all tokens round differently.
EXACT = 1e-9
# Smallest limit in float32 and below. A dense gradient may be closer by chance.
ROUNDING = 2e-6


def check_state_dtypes(call: ScanCall, dtype: str) -> Iterator[Check]:
  """Checks that each array of the state has the precision of float32."""
  for path, x in jax.tree_util.tree_leaves_with_path(call.state):
    if is_inexact(x):
      yield Check(
        "spacing of numbers in the state",
        jax.tree_util.keystr(path, simple=True, separator="/"),
        dtype,
        None,
        float(jnp.finfo(x.dtype).eps),
        float(jnp.finfo(jnp.float32).eps),
        f"the state is {x.dtype}: keep it in float32 or wider, because each "
        "chunk rounds what is added to it",
      )


def check_values(
  dtype: str, dense: Results, chunked: Results, chunk_size: int, cause: str
) -> Iterator[Check]:
  """Checks that outs and last state do not depend on the chunks."""
  for what in ("outs", "state"):
    a, b = getattr(chunked, what), getattr(dense, what)
    if jax.tree.leaves(b):
      value = relative_distance(a, b, norm(b))
      yield Check(what, "", dtype, chunk_size, value, EXACT, cause)


def check_gradients(
  dtype: str,
  dense: Results,
  chunked: Results,
  chunk_size: int,
  limits: Callable[[str, str], float],
  cause: str,
) -> Iterator[Check]:
  """Checks that gradients do not depend on the chunks.

  Args:
    dtype: Dtype of `chunked`.
    dense: Results without chunks.
    chunked: Results with chunks.
    chunk_size: C, tokens.
    limits: `limits(what, path)`, the largest error of an array.
    cause: Likely cause of a failure.

  Yields:
    The check of the worst array of params, of state and of xs.
  """
  for what, gradients in dense.gradients.items():
    errors = relative_errors(chunked.gradients[what], gradients)
    checks = [
      Check(
        f"gradient of {what}",
        path,
        dtype,
        chunk_size,
        error,
        limits(what, path),
        cause,
      )
      for path, error in errors.items()
    ]
    if checks:
      yield max(checks, key=lambda check: check.value_over_limit)


def check_rewound_states(
  dtype: str, call: ScanCall, chunk_size: int, limit: float
) -> Iterator[Check]:
  """Checks that rewinding returns the states of the forward pass."""
  yield Check(
    "rewound states",
    "",
    dtype,
    chunk_size,
    rewinding_error(call, chunk_size),
    limit,
    "rewind does not return the state before the chunk: it must subtract what "
    "the step has added; a state that decays has to be `kept`, or needs policy "
    "'store' or 'sqrt'",
  )


def check_decay(dtype: str, call: ScanCall) -> Iterator[Check]:
  """Checks that the state does not decay, which rewinding would amplify."""
  yield Check(
    "decay of the state",
    "",
    dtype,
    None,
    decay_share(call),
    0.01,
    "the state decays, so rewinding amplifies its rounding errors with each "
    "token: declare it as `kept`, or use policy 'store' or 'sqrt'",
  )


def check_memory(
  dtype: str, call: ScanCall, chunk_size: int, target: Target
) -> Iterator[Check]:
  """Checks that a further chunk costs no memory beyond state and tokens.

  The gradient over 4, 8 and 16 chunks is compiled for the target, not run.
  """

  def temporary_bytes(num_chunks):
    def resize(x):
      shape = list(x.shape)
      shape[call.axis] = num_chunks * chunk_size
      return jax.ShapeDtypeStruct(shape, x.dtype)

    def loss(params, state, xs):
      state, outs = call.run(params, state, xs, chunk_size)
      # Squares, because their derivatives need the values.
      return sum(
        jnp.sum((x * x.conj()).real) for x in inexact_leaves((state, outs))
      )

    gradient = jax.grad(loss, argnums=(0, 1, 2), allow_int=True)
    compiled = target.compile(
      gradient,
      call.params,
      call.state,
      jax.tree.map(resize, call.xs),
      options=FAST_COMPILE_OPTIONS,
    )
    return target.temporary_bytes(compiled)

  few, some, many = (temporary_bytes(n) for n in (4, 8, 16))
  # "sqrt" may grow in steps, so take the larger of two slopes.
  slope = max((some - few) / 4, (many - some) / 8)
  token_bytes = _num_bytes(call.xs, target) * chunk_size / call.length
  stored: Any = call.state
  if call.policy == "rewind":
    stored = KeptLeaves.of(call.kept, call.state).select(call.state)
  state_bytes = _num_bytes(stored, target)
  yield Check(
    "bytes per chunk",
    "",
    dtype,
    chunk_size,
    max(0.0, slope),
    state_bytes + 2 * token_bytes + 1024,
    _find_memory_cause(call),
  )


def _find_memory_cause(call: ScanCall) -> str:
  """Names the largest out with one value per token, if there is any."""
  outs = jax.eval_shape(call.step, call.params, call.state, call.xs)[1]
  per_token = {
    jax.tree_util.keystr(path): x
    for path, x in jax.tree_util.tree_leaves_with_path(outs)
    if x.shape[call.axis] == call.length
  }
  if not per_token:
    return "the backward pass keeps an array of each chunk"
  largest = max(per_token, key=lambda name: per_token[name].size)
  return (
    f"the step returns outs{largest} for every token, and all of them are "
    "kept: sum the loss in the step and return x.reshape(1, 1)"
  )


def _num_bytes(tree: Any, target: Target) -> int:
  """Returns bytes as the device keeps arrays: TPUs in tiles of 8 · 128."""
  tile = (8, 128) if target.platform == "tpu" else (1, 1)

  def size(x):
    shape = (1, 1, *x.shape)
    padded = [-(-n // k) * k for n, k in zip(shape[-2:], tile, strict=True)]
    return math.prod((*shape[:-2], *padded)) * x.dtype.itemsize

  return sum(map(size, jax.tree.leaves(tree)))
