"""Is the chunked gradient the dense gradient?"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from slim.certify.certificate import Certificate
from slim.certify.checks import (
  EXACT,
  ROUNDING,
  check_dtypes,
  check_fading,
  check_gradients,
  check_memory,
  check_rewinding,
  check_values,
)
from slim.certify.gradient_error import relative_errors
from slim.certify.gradients import (
  Case,
  differentiate,
  distance,
)
from slim.kernels.chunk_scan.chunks import Chunks
from slim.kernels.support.cotangents import (
  inexact_leaves,
  is_inexact,
)
from slim.kernels.support.dtypes import promote

_LATER_TOKENS = (
  "what the step computes of a token depends on later ones, such as a maximum "
  "or a mean over the sequence, which a chunk cannot know"
)
_CUT = (
  "what the step computes depends on where chunks begin: random numbers and "
  "positions must be functions of the position in the sequence alone"
)
_FORGOTTEN = (
  "the values agree, so a derivative is lost between chunks: look for "
  "stop_gradient or a derivative of your own that forgets the state's cotangent"
)
_ROUNDED = (
  "in float64 it is right, so it is rounding: keep states and sums in float32 "
  "or wider, or choose policy 'store'"
)
_NOT_UNDONE = "rewinding fails, see the rewound states"


def certify(
  step: Callable[..., tuple[Any, Any]],
  params: Any,
  state: Any,
  xs: Any,
  *,
  axis: int = 1,
  policy: str = "store",
  rewind: Callable[..., tuple[Any, Any, Any]] | None = None,
) -> Certificate:
  """Checks a step of `slim.kernels.scan` against the whole sequence at once.

  In float64 with three chunk sizes, most of which leave a short first chunk,
  and with one of them as it is given: outs, last state and gradients of all
  floats and complex numbers, which are compared as pairs of floats; what
  rewinding finds; and how memory grows with the length, which is compiled only.

  Args:
    step: As of `slim.kernels.scan`. It has to compute in the dtypes of what it
      is given, of which float32 becomes float64, and complex64 complex128.
    params: As of `scan`.
    state: As of `scan`; better not of zeros, whose gradient may be zero too.
    xs: As of `scan`; T tokens, at least 12. A hundred are enough.
    axis: As of `scan`.
    policy: As of `scan`.
    rewind: As of `scan`.

  Returns:
    The certificate; it says for each failure what is likely to be wrong.

  Raises:
    ValueError: If an argument does not fit, or the step does not compute in
      float64.

  Cost: some ten compilations and gradients over T tokens.
  """
  Chunks.of(xs, 1, axis)  # Refuses what has no tokens.
  arrays = jax.tree.map(jnp.asarray, (params, state, xs))
  case = Case(step, *arrays, axis, policy, rewind)
  size = chunk_sizes(case.length)[0]
  # What `scan` refuses, in the words of `scan`.
  jax.eval_shape(lambda *arrays: case.run(*arrays, size), *arrays)
  dtypes = [x.dtype for x in inexact_leaves(arrays)]
  dtype = promote(*dtypes) if dtypes else jnp.float32
  return certify_cases(case, widen(case), step, dtype)


def certify_cases(
  case: Case,
  wide_case: Case,
  look: Callable[..., tuple[Any, Any]],
  dtype: Any,
) -> Certificate:
  """Checks a step that is there in its own dtype and in float64.

  Args:
    case: As it is used.
    wide_case: The same in float64, differentiated with 64-bit types enabled.
    look: In float64, the step with outs of each token where it has them.
    dtype: What `case` computes in.

  Returns:
    The certificate.
  """
  sizes = chunk_sizes(case.length)
  name = jnp.finfo(dtype).dtype.name  # Of the parts of a complex number.
  checks = list(check_dtypes(case, name))
  with jax.enable_x64(True):
    right = differentiate(wide_case, None)
    cause = _LATER_TOKENS if _sees_later(wide_case, look) else _CUT
    found = {size: differentiate(wide_case, size) for size in sizes}
    for size in sizes:
      checks += check_values("float64", right, found[size], size, cause)
    values_agree = all(check.ok for check in checks)
    undone = True
    if case.policy == "rewind":
      rewinding = [
        *check_rewinding("float64", wide_case, sizes[-1], EXACT),
        *check_fading("float64", wide_case),
      ]
      undone = all(check.ok for check in rewinding)
      checks += rewinding
    if values_agree:
      cause = _FORGOTTEN if undone else _NOT_UNDONE
    for size in sizes:
      checks += check_gradients(
        "float64", right, found[size], size, lambda *_: EXACT, cause
      )
  if all(check.ok for check in checks):
    cause = _ROUNDED
  dense = differentiate(case, None)
  errors = {
    what: relative_errors(its, right.gradients[what])
    for what, its in dense.gradients.items()
  }
  eps = float(jnp.finfo(name).eps)

  def limit(what, path):
    """What rounding does to the dense gradient, four times."""
    return max(4 * errors[what][path], ROUNDING, 16 * eps)

  chunked = differentiate(case, sizes[1])
  checks += check_gradients(name, right, chunked, sizes[1], limit, cause)
  if case.policy == "rewind":
    checks += check_rewinding(name, case, sizes[-1], ROUNDING)
  checks += check_memory(name, case, sizes[1])
  return Certificate(tuple(checks))


def chunk_sizes(length: int) -> tuple[int, int, int]:
  """Three values of C for T tokens, the last the smallest."""
  if length < 12:
    raise ValueError(f"xs must have at least 12 tokens, got {length}")
  return length // 2, length // 4 + 1, length // 7 + 1


def _sees_later(case, look):
  """Tells whether outs of tokens change with the last token."""

  def change(x):
    if not x.size or jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
      return x
    last = jax.lax.slice_in_dim(x, case.length - 1, None, axis=case.axis)
    if is_inexact(x):
      other = last + 1
    else:
      other = jnp.where(last == x.min(), x.max(), x.min()).astype(x.dtype)
    rest = jax.lax.slice_in_dim(x, 0, case.length - 1, axis=case.axis)
    return jnp.concatenate([rest, other], case.axis)

  look = jax.jit(look)
  before, after = (
    [
      jax.lax.slice_in_dim(x, 0, case.length - 1, axis=case.axis)
      for x in jax.tree.leaves(look(case.params, case.state, xs)[1])
      if x.shape[case.axis] == case.length
    ]
    for xs in (case.xs, jax.tree.map(change, case.xs))
  )
  return distance(before, after) > 0


def widen(case: Case) -> Case:
  """Makes float64 of float32, and complex128 of complex64; keeps the rest."""
  wide = {"float32": jnp.float64, "complex64": jnp.complex128}

  def cast(x):
    dtype = wide.get(x.dtype.name)
    if dtype is None:
      return x
    # A Python number stays one, which takes the dtype of what it meets.
    is_number = x.ndim == 0 and jax.typeof(x).weak_type
    return jnp.asarray(x.item()) if is_number else jnp.asarray(x, dtype)

  with jax.enable_x64(True):
    arrays = jax.tree.map(cast, (case.params, case.state, case.xs))
  return case._replace(params=arrays[0], state=arrays[1], xs=arrays[2])
