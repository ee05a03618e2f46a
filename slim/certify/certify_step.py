"""Certify the gradient of a step over chunks."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from slim.certify.certificate import Certificate, Check
from slim.certify.checks import (
  EXACT,
  ROUNDING,
  check_decay,
  check_gradients,
  check_memory,
  check_rewound_states,
  check_state_dtypes,
  check_values,
)
from slim.certify.distances import distance
from slim.certify.gradient_error import relative_errors
from slim.certify.gradients import Results, ScanCall, differentiate
from slim.kernels.chunk_scan.chunks import Chunks
from slim.kernels.chunk_scan.step_types import RewindFn, StepFn
from slim.kernels.support.cotangents import inexact_leaves, is_inexact
from slim.kernels.support.dtypes import promote
from slim.runs.stages import stage
from slim.targets import HERE, Target

_LATER_TOKENS = (
  "the output of a token depends on later tokens, such as by a maximum or a "
  "mean over the sequence, which a chunk cannot know"
)
_CHUNK_STARTS = (
  "the output depends on where chunks begin: random numbers and positions must "
  "be functions of the position in the sequence alone"
)
_LOST_DERIVATIVE = (
  "the values agree, so a derivative is lost between chunks: look for "
  "stop_gradient, or for a custom derivative that drops the cotangent of the "
  "state"
)
_ROUNDED = (
  "it is correct in float64, so this is rounding: keep states and sums in "
  "float32 or wider, or use policy 'store'"
)
_NOT_REWOUND = "rewinding fails, see the check of the rewound states"


def certify(
  step: StepFn,
  params: Any,
  state: Any,
  xs: Any,
  *,
  axis: int = 1,
  policy: str = "store",
  rewind: RewindFn | None = None,
  kept: Any = False,
  target: Target = HERE,
) -> Certificate:
  """Checks a step of `slim.kernels.scan` against the whole sequence at once.

  In float64, with three chunk sizes, it compares outs, last state and the
  gradients of all floating-point and complex inputs. A complex number counts as
  a pair of real numbers. In the dtype of the arguments it compares the
  gradients with one chunk size. It also checks the rewound states, and how
  memory grows with the length.

  Args:
    step: `step(params, state, chunk) -> (state, out)`, as for
      `slim.kernels.scan`. It must compute in the dtypes of its arguments, which
      become float64 (from float16, bfloat16 and float32) and complex128 (from
      complex64).
    params: Pytree of arrays and numbers.
    state: Pytree of arrays and numbers, the state before the first token.
      Prefer nonzero values: at zero, a wrong gradient may be zero too.
    xs: Pytree of arrays with T ≥ 13 tokens along `axis`. A hundred suffice.
    axis: The axis of time.
    policy: "store", "sqrt" or "rewind".
    rewind: `rewind(params, state_after, chunk) -> (state_before, out,
      state_after)`, for policy "rewind".
    kept: The leaves of the state that are stored before each chunk, as for
      `slim.kernels.scan`. Only the others are checked to be undone.
    target: What the gradient is compiled for to see how memory grows. Values
      are computed on this machine.

  Returns:
    The certificate. Each failure names its likely cause.

  Raises:
    ValueError: If an argument does not fit, or the step does not compute in
      float64.

  Cost: about ten compilations, and as many gradients over T tokens.
  """
  Chunks.of(xs, 1, axis)  # Raises if xs has no tokens.
  params, state, xs = jax.tree.map(jnp.asarray, (params, state, xs))
  call = ScanCall(step, params, state, xs, axis, policy, rewind, kept)
  chunk_size = chunk_sizes(call.length)[0]
  # Raises what `scan` raises.
  jax.eval_shape(
    lambda params, state, xs: call.run(params, state, xs, chunk_size),
    params,
    state,
    xs,
  )
  dtypes = [x.dtype for x in inexact_leaves((params, state, xs))]
  dtype = promote(*dtypes) if dtypes else jnp.float32
  return certify_calls(call, to_float64(call), step, dtype, target)


def certify_calls(
  call: ScanCall,
  call_float64: ScanCall,
  token_outputs: StepFn,
  dtype: DTypeLike,
  target: Target,
) -> Certificate:
  """Checks a step that exists in its own dtype and in float64.

  Args:
    call: The call as it is used.
    call_float64: The same call in float64. It is differentiated with 64-bit
      types enabled.
    token_outputs: A step in float64, with one out per token if there is any.
    dtype: Dtype of the computation in `call`.
    target: What is compiled for to see how memory grows.

  Returns:
    The certificate.
  """
  *_, chunk_size, smallest = chunk_sizes(call.length)
  name = jnp.finfo(dtype).dtype.name  # That of the parts of a complex number.
  checks = list(check_state_dtypes(call, name))
  with stage("checking in float64"), jax.enable_x64(True):
    dense_float64 = differentiate(call_float64, None)
    found, cause = _check_in_float64(call_float64, dense_float64, token_outputs)
  checks += found
  if all(check.ok for check in checks):
    cause = _ROUNDED
  with stage(f"checking the whole sequence in {name}"):
    dense = differentiate(call, None)
  errors = {
    what: relative_errors(gradients, dense_float64.gradients[what])
    for what, gradients in dense.gradients.items()
  }
  eps = float(jnp.finfo(name).eps)

  def limit(what, path):
    """Returns four times the rounding error of the dense gradient."""
    return max(4 * errors[what][path], ROUNDING, 16 * eps)

  with stage(f"checking chunks in {name}"):
    chunked = differentiate(call, chunk_size)
    checks += check_gradients(
      name, dense_float64, chunked, chunk_size, limit, cause
    )
    if call.policy == "rewind":
      checks += check_rewound_states(name, call, smallest, ROUNDING)
  with stage("comparing memory"):
    checks += check_memory(name, call, chunk_size, target)
  return Certificate(tuple(checks))


def chunk_sizes(length: int) -> tuple[int, int, int]:
  """Returns three chunk sizes for T tokens, the smallest last."""
  if length < 13:  # The three sizes would divide 12: no first chunk is short.
    raise ValueError(f"xs must have at least 13 tokens, got {length}")
  return length // 2, length // 4 + 1, length // 7 + 1


def to_float64(call: ScanCall) -> ScanCall:
  """Casts short floats to float64, and complex64 to complex128."""
  wide = dict.fromkeys(("float16", "bfloat16", "float32"), jnp.float64)
  wide["complex64"] = jnp.complex128

  def cast(x):
    dtype = wide.get(x.dtype.name)
    if dtype is None:
      return x
    # A Python number stays weakly typed.
    is_number = x.ndim == 0 and jax.typeof(x).weak_type
    return jnp.asarray(x.item()) if is_number else jnp.asarray(x, dtype)

  with jax.enable_x64(True):
    params, state, xs = jax.tree.map(cast, (call.params, call.state, call.xs))
  return call._replace(params=params, state=state, xs=xs)


def _check_in_float64(
  call: ScanCall, dense: Results, token_outputs: StepFn
) -> tuple[list[Check], str]:
  """Checks values, rewinding and gradients; returns the likely cause, too."""
  sizes = chunk_sizes(call.length)
  cause = _CHUNK_STARTS
  if _depends_on_later_tokens(call, token_outputs):
    cause = _LATER_TOKENS
  chunked = {size: differentiate(call, size) for size in sizes}
  checks: list[Check] = []
  for size in sizes:
    checks += check_values("float64", dense, chunked[size], size, cause)
  values_agree = all(check.ok for check in checks)
  rewound: list[Check] = []
  if call.policy == "rewind":
    rewound += check_rewound_states("float64", call, sizes[-1], EXACT)
    rewound += check_decay("float64", call)
  checks += rewound
  if values_agree:
    rewinds = all(check.ok for check in rewound)
    cause = _LOST_DERIVATIVE if rewinds else _NOT_REWOUND
  for size in sizes:
    checks += check_gradients(
      "float64", dense, chunked[size], size, lambda *_: EXACT, cause
    )
  return checks, cause


def _depends_on_later_tokens(call: ScanCall, token_outputs: StepFn) -> bool:
  """Tells whether outs of earlier tokens change with the last token."""

  def change_last(x):
    if not x.size or jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
      return x
    last = jax.lax.slice_in_dim(x, call.length - 1, None, axis=call.axis)
    if is_inexact(x):
      other = last + 1
    else:
      other = jnp.where(last == x.min(), x.max(), x.min()).astype(x.dtype)
    return jnp.concatenate([drop_last(x), other], call.axis)

  def drop_last(x):
    return jax.lax.slice_in_dim(x, 0, call.length - 1, axis=call.axis)

  step = jax.jit(token_outputs)
  before, after = (
    [
      drop_last(x)
      for x in jax.tree.leaves(step(call.params, call.state, xs)[1])
      if x.shape[call.axis] == call.length
    ]
    for xs in (call.xs, jax.tree.map(change_last, call.xs))
  )
  return distance(before, after) > 0
