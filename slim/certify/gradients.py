"""A step and what it is given, differentiated in one piece or in chunks."""

import itertools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from slim.certify.gradient_error import to_double
from slim.kernels import scan
from slim.kernels.support.cotangents import (
  inexact_leaves,
  is_inexact,
)
from slim.training.gradients import COMPILER_OPTIONS

# What LLVM would make of a program that runs once takes longer than running it.
OPTIONS = COMPILER_OPTIONS | {
  "xla_backend_optimization_level": 0,
  "xla_llvm_disable_expensive_passes": True,
}


class Case(NamedTuple):
  """The arguments of `slim.kernels.scan`, but for the chunk size."""

  step: Callable[..., tuple[Any, Any]]
  params: Any
  state: Any
  xs: Any
  axis: int
  policy: str
  rewind: Callable[..., tuple[Any, Any, Any]] | None

  @property
  def length(self) -> int:
    """T, tokens."""
    return jax.tree.leaves(self.xs)[0].shape[self.axis]

  def run(self, params, state, xs, chunk_size: int | None) -> tuple[Any, Any]:
    """The last state and the outs; None: in one piece, as `step` has it."""
    if chunk_size is None:
      # A step may return numbers.
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
    )


class Found(NamedTuple):
  """What a case computes."""

  outs: Any  # Those that are sums over chunks are added up.
  state: Any  # After the last token.
  gradients: dict[str, Any]  # Of params, state and xs, where they have one.


def differentiate(case: Case, chunk_size: int | None) -> Found:
  """Computes outs, last state and the gradient of what depends on all of them.

  Σ w · out + Σ w · state, where w is drawn once for each token; it is 1 for the
  sum over a chunk, or sums would not add up to the same. The real and the
  imaginary part of a complex number have a weight each.

  Args:
    case: The case.
    chunk_size: C, tokens; None: plain differentiation of the step.

  Returns:
    All that is compared.
  """
  length, axis = case.length, case.axis

  def is_of_tokens(x):
    return x.ndim > axis and x.shape[axis] == length

  def loss(params, state, xs):
    state, outs = case.run(params, state, xs, chunk_size)
    total = 0.0
    for i, x in enumerate(inexact_leaves(outs)):
      total += _dot(_weights(i, x) if is_of_tokens(x) else _ones(x), x)
    for i, x in enumerate(inexact_leaves(state)):
      total += _dot(_weights(i, x), x)
    outs = jax.tree.map(
      lambda x: x if is_of_tokens(x) else x.sum(axis, keepdims=True), outs
    )
    return total, (outs, state)

  gradient = jax.grad(loss, argnums=(0, 1, 2), has_aux=True, allow_int=True)
  cts, (outs, state) = _compile(gradient)(case.params, case.state, case.xs)
  inputs = {"params": case.params, "state": case.state, "xs": case.xs}
  gradients = {
    name: jax.tree.map(
      lambda x, ct: ct if is_inexact(x) else None, inputs[name], tree
    )
    for name, tree in zip(inputs, cts, strict=True)
  }
  return Found(outs, state, gradients)


def walk_back(case: Case, chunk_size: int) -> float:
  """Finds by `rewind` the states that the chunks started from.

  Args:
    case: The case, of policy "rewind".
    chunk_size: C, tokens.

  Returns:
    The largest distance of such a state from the one that was there, over the
    size of the state that the chunk ended with.
  """
  step, rewind = _compile(case.step), _compile(case.rewind)
  first = case.length % chunk_size or chunk_size
  starts = [0, *range(first, case.length, chunk_size)]
  chunks = [
    jax.tree.map(
      lambda x, start=start, end=end: jax.lax.slice_in_dim(
        x, start, end, axis=case.axis
      ),
      case.xs,
    )
    for start, end in itertools.pairwise([*starts, case.length])
  ]
  states = [case.state]
  for chunk in chunks:
    states.append(step(case.params, states[-1], chunk)[0])
  found, worst = states[-1], 0.0
  walk = list(zip(states[:-1], states[1:], chunks, strict=True))
  for before, after, chunk in reversed(walk):
    found = rewind(case.params, found, chunk)[0]
    worst = max(worst, relative_distance(found, before, norm(after)))
  return worst


def fading(case: Case) -> float:
  """Which share of a change of the initial state is lost by the last.

  Args:
    case: The case.

  Returns:
    1 - |change of the last state| / |change of the initial state|, the largest
    for a change of one of its arrays. 0 or less where nothing decays.
  """
  step = _compile(case.step)
  arrays, structure = jax.tree.flatten(case.state)
  last = step(case.params, case.state, case.xs)[0]
  random = np.random.default_rng(0)
  shares = [0.0]
  for i, x in enumerate(arrays):
    if is_inexact(x) and x.size:
      change = 1e-3 * (1 + norm(x)) * _normal(random, x)
      moved = structure.unflatten([*arrays[:i], x + change, *arrays[i + 1 :]])
      after = step(case.params, moved, case.xs)[0]
      shares.append(1 - distance(after, last) / norm(change))
  return max(shares)


def norm(tree: Any) -> float:
  """The Euclidean length of all numbers with a derivative together."""
  return math.hypot(
    *(np.linalg.norm(to_double(x)) for x in inexact_leaves(tree))
  )


def distance(a: Any, b: Any) -> float:
  """The length of what floats differ by; infinite where integers differ."""
  for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
    if not is_inexact(x) and not bool((x == y).all()):
      return math.inf
  a, b = (list(map(to_double, inexact_leaves(tree))) for tree in (a, b))
  return norm([x - y for x, y in zip(a, b, strict=True)])


def relative_distance(a: Any, b: Any, scale: float) -> float:
  """The `distance` over a scale; where that is 0, nothing but 0 is right."""
  apart = distance(a, b)
  if apart == 0:
    return 0.0
  return apart / scale if scale else math.inf


def _compile(fn):
  return jax.jit(fn, compiler_options=OPTIONS)


def _weights(i, x):
  """Weights that depend on the number of an array and its shape alone."""
  return _normal(np.random.default_rng(i), x)


def _normal(random, x):
  values = random.normal(size=x.shape)
  if jnp.iscomplexobj(x):
    values = values + 1j * random.normal(size=x.shape)
  return jnp.asarray(values, x.dtype)


def _ones(x):
  """The weights of all parts of `x` that count alike."""
  return jnp.asarray(1 + 1j if jnp.iscomplexobj(x) else 1, x.dtype)


def _dot(weights, x):
  """The weighted sum of the real and imaginary parts of `x`."""
  return (weights.conj() * x).real.sum()
