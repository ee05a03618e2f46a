"""`sum_and_grad` compiles a step once, and refuses steps that do not fit."""

import jax.numpy as jnp
import pytest

from slim.kernels import sum_and_grad


def count(params, state, chunk):
  """A step that counts."""
  return state + chunk.sum(1), (params * chunk).sum()


@pytest.mark.parametrize("chunk_size", [3, 4, 100])
@pytest.mark.parametrize(
  ("change", "message"),
  [
    (
      {"step": lambda p, s, x: (s, p * x)},
      r"the loss that step returns must be a real floating-point scalar, got "
      r"float32\[2, \d\]; sum it over the chunk",
    ),
    (
      {"step": lambda p, s, x: (s, x.size)},
      r"loss that step returns must be a real .*got int32\[\]",
    ),
    (
      {"step": lambda p, s, x: (s[:1], p)},
      r"the state that step returns must have leaves \['float32\[2\]'\], got",
    ),
    (
      {"step": lambda p, s, x: (s, (p, p))},
      r"with has_aux=False, step must return one number, .*got tuple",
    ),
    (
      {"step": lambda p, s, x: (s, p), "has_aux": True},
      r"with has_aux=True, step must return \(loss, aux\), a tuple",
    ),
    ({"policy": "stor"}, r"policy must be one of .*, got 'stor'"),
    ({"rewind": None}, "policy 'rewind' needs `rewind`"),
    ({"chunk_size": 0}, "chunk_size must be a positive integer, got 0"),
    ({"axis": 2}, r"xs must have a time axis 2, got shape \(2, 8\)"),
  ],
)
def test_misfits_are_refused(chunk_size, change, message):
  """Fails if the error comes from a loop that the user has not written."""
  settings = {
    "step": count,
    "chunk_size": chunk_size,
    "policy": "rewind",
    "rewind": lambda params, after, chunk: (after, jnp.float32(0), after),
  } | change
  step = settings.pop("step")
  with pytest.raises(ValueError, match=message):
    sum_and_grad(step, jnp.ones(()), jnp.zeros(2), jnp.ones((2, 8)), **settings)


def test_wrong_results_of_rewind_are_refused():
  """Fails if the loss is taken for the state, or the other way round."""
  message = r"what rewind returns, \(state_before, loss, state_after\), must"

  def rewind(params, after, chunk):
    return after, jnp.float32(0), after[:1]

  with pytest.raises(ValueError, match=message):
    sum_and_grad(
      count,
      jnp.ones(()),
      jnp.zeros(2),
      jnp.ones((2, 8)),
      chunk_size=3,
      policy="rewind",
      rewind=rewind,
    )


def test_one_program_serves_equal_chunks():
  """Fails if a model takes twice as long to trace and to compile."""
  traces = []

  def step(params, state, chunk):
    traces.append(chunk.shape)
    return count(params, state, chunk)

  args = jnp.ones(()), jnp.zeros(2), jnp.ones((2, 12))
  sum_and_grad(step, *args, chunk_size=4)
  # Once for the types of what it returns.
  assert len(traces) == 2
  traces.clear()
  sum_and_grad(step, *args, chunk_size=5)
  assert len(traces) == 3
