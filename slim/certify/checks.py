"""The checks of a case: values, gradients, rewound states, memory."""

from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp

from slim.certify.certificate import Check
from slim.certify.gradient_error import relative_errors
from slim.certify.gradients import (
  OPTIONS,
  Case,
  Found,
  fading,
  norm,
  relative_distance,
  walk_back,
)
from slim.kernels.support.cotangents import (
  inexact_leaves,
  is_inexact,
)

# Of float64: sums over chunks and over all tokens differ by their rounding.
EXACT = 1e-9
# Of float32 and less, where a plain gradient is right by chance.
ROUNDING = 2e-6


def check_dtypes(case: Case, name: str) -> Iterator[Check]:
  """A state of few bits forgets what is added to it."""
  for path, x in jax.tree_util.tree_leaves_with_path(case.state):
    if is_inexact(x):
      yield Check(
        "spacing of numbers in the state",
        jax.tree_util.keystr(path, simple=True, separator="/"),
        name,
        None,
        float(jnp.finfo(x.dtype).eps),
        float(jnp.finfo(jnp.float32).eps),
        f"the state is {x.dtype}: keep it in float32 or wider, as each chunk "
        "rounds what is added to it",
      )


def check_values(
  name: str, right: Found, found: Found, size: int, cause: str
) -> Iterator[Check]:
  """Chunks must not change what the step computes."""
  for what in ("outs", "state"):
    a, b = getattr(found, what), getattr(right, what)
    if jax.tree.leaves(b):
      value = relative_distance(a, b, norm(b))
      yield Check(what, "", name, size, value, EXACT, cause)


def check_gradients(
  name: str,
  right: Found,
  found: Found,
  size: int,
  limits: Callable[[str, str], float],
  cause: str,
) -> Iterator[Check]:
  """Chunks must not change the gradient: for each input the worst array."""
  for what, its in right.gradients.items():
    checks = [
      Check(
        f"gradient of {what}",
        path,
        name,
        size,
        error,
        limits(what, path),
        cause,
      )
      for path, error in relative_errors(found.gradients[what], its).items()
    ]
    if checks:
      yield max(checks, key=lambda check: check.badness)


def check_rewinding(
  name: str, case: Case, size: int, limit: float
) -> Iterator[Check]:
  """What rewinding finds must be what was there."""
  yield Check(
    "rewound states",
    "",
    name,
    size,
    walk_back(case, size),
    limit,
    "rewind does not return the state before the chunk: it has to take off "
    "what the step has added; a state that decays takes policy 'store' or "
    "'sqrt'",
  )


def check_fading(name: str, case: Case) -> Iterator[Check]:
  """What fades on the way there is magnified on the way back."""
  yield Check(
    "fading of the state",
    "",
    name,
    None,
    fading(case),
    0.01,
    "the state decays, so rewinding magnifies its rounding errors with each "
    "token: choose policy 'store' or 'sqrt'",
  )


def check_memory(name: str, case: Case, size: int) -> Iterator[Check]:
  """Longer sequences must not take more but for their states and tokens."""

  def temporary_bytes(num_chunks):
    def resize(x):
      shape = list(x.shape)
      shape[case.axis] = num_chunks * size
      return jax.ShapeDtypeStruct(shape, x.dtype)

    def loss(params, state, xs):
      state, outs = case.run(params, state, xs, size)
      # Squares, as their derivatives need the values.
      return sum(
        jnp.sum((x * x.conj()).real) for x in inexact_leaves((state, outs))
      )

    gradient = jax.grad(loss, argnums=(0, 1, 2), allow_int=True)
    lowered = jax.jit(gradient).lower(
      case.params, case.state, jax.tree.map(resize, case.xs)
    )
    compiled = lowered.compile(OPTIONS)
    return compiled.memory_analysis().temp_size_in_bytes

  def bytes_of(tree):
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree))

  few, some, many = (temporary_bytes(n) for n in (4, 8, 16))
  # "sqrt" may go on in steps: the larger rise is not by chance.
  rise = max((some - few) / 4, (many - some) / 8)
  tokens = bytes_of(case.xs) * size / case.length
  state = 0 if case.policy == "rewind" else bytes_of(case.state)
  outs = jax.eval_shape(case.step, case.params, case.state, case.xs)[1]
  kept = {
    jax.tree_util.keystr(path): x
    for path, x in jax.tree_util.tree_leaves_with_path(outs)
    if x.shape[case.axis] == case.length
  }
  cause = "something of each chunk is kept for the backward pass"
  if kept:
    largest = max(kept, key=lambda name: kept[name].size)
    cause = (
      f"the step returns outs{largest} of every token, which are all kept: sum "
      "its loss in the step and return x.reshape(1, 1)"
    )
  yield Check(
    "bytes a chunk",
    "",
    name,
    size,
    max(0.0, rise),
    state + 2 * tokens + 1024,
    cause,
  )
