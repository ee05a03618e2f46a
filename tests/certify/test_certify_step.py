"""Certificates of correct steps in plain JAX, and refused arguments."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from slim.certify import certify
from tests.certify.steps import B, D, T, add, make_inputs, recur, subtract


@pytest.mark.parametrize(
  ("step", "settings"),
  [
    pytest.param(recur, {"policy": "store"}, marks=pytest.mark.slow),
    pytest.param(recur, {"policy": "sqrt"}, marks=pytest.mark.slow),
    (add, {"policy": "rewind", "rewind": subtract}),
  ],
  ids=["store", "sqrt", "rewind"],
)
def test_correct_step_passes(step, settings):
  """Fails if a correct step is rejected, or a chunk size is skipped."""
  certificate = certify(step, *make_inputs(), **settings)
  assert certificate.ok, f"{certificate}\n{certificate.describe_failure()}"
  sizes = {check.chunk_size for check in certificate.checks}
  assert sizes == {None, 20, 11, 6}


def test_short_parameters_pass(one_size):
  """Fails if rounding to bfloat16 looks like a lost derivative."""
  params, state, xs = make_inputs()
  params = jax.tree.map(lambda x: x.astype(jnp.bfloat16), params)
  certificate = certify(add, params, state, xs)
  assert certificate.ok, f"{certificate}\n{certificate.describe_failure()}"


def make_complex():
  """Returns arguments whose differentiable leaves are complex; and a key."""
  params, state, xs = jax.tree.map(lambda x: x * (1 + 0.5j), make_inputs())
  return params | {"key": jax.random.key(0), "scale": 1j}, state, xs


def complex_add(params, state, chunk, cut=lambda x: x):
  """Sums complex updates into the state."""
  added = jnp.cos(chunk["x"] @ params["w"]) * params["scale"] / 30
  ys = cut(state)[:, None] + jnp.cumsum(added, 1)
  return ys[:, -1], jnp.square(ys.real).sum().reshape(1, 1)


def complex_rewind(params, after, chunk, share=1.0):
  """Undoes `complex_add`, or a share of it."""
  before = complex_add(params, jnp.zeros_like(after), chunk)[0]
  before = after - jax.lax.stop_gradient(before * share)
  return before, *complex_add(params, before, chunk)[::-1]


@pytest.mark.parametrize(
  ("step", "rewind", "failure", "cause"),
  [
    (complex_add, complex_rewind, None, None),
    # Only the derivative of the imaginary part is wrong.
    (
      functools.partial(
        complex_add, cut=lambda x: x.real + 1j * jax.lax.stop_gradient(x.imag)
      ),
      None,
      "gradient of params of",
      "look for stop_gradient",
    ),
    (
      complex_add,
      functools.partial(complex_rewind, share=1.001),
      "rewound states in float64",
      "a state that decays has to be `kept`",
    ),
  ],
  ids=["correct", "stop_gradient", "rewound wrongly"],
)
def test_complex_number_counts_as_pair(one_size, step, rewind, failure, cause):
  """Fails if an error in the imaginary part alone passes."""
  policy = "rewind" if rewind else "store"
  certificate = certify(step, *make_complex(), policy=policy, rewind=rewind)
  assert certificate.ok == (failure is None), str(certificate)
  if failure:
    line = certificate.describe_failure()
    assert line.startswith(failure) and cause in line, line
  assert {check.dtype for check in certificate.checks} == {"float32", "float64"}


def counting(params, state, chunk):
  """Takes leaves of all kinds, and a state with Python numbers."""
  y = jnp.tanh(chunk["x"] * params["scale"] * params["flag"])
  y *= jax.random.uniform(params["key"], (), y.dtype) + params["whole"]
  totals = state["total"] + jnp.cumsum(y.sum((0, 2)))
  state = state | {"total": totals[-1], "count": state["count"] + y.shape[1]}
  return state, jnp.square(totals).sum().reshape(1, 1)


def test_leaves_of_all_kinds(one_size):
  """Fails if a key, a number or an empty input ends in a traceback."""
  params = {"key": jax.random.key(0), "scale": 0.5, "flag": True, "whole": 3}
  state = {"total": 0.1, "count": 0, "key": jax.random.key(1), "flag": False}
  xs = {
    "x": np.ones((B, T, D), np.float32),
    "off": np.ones((B, T, 0)),
    "keys": jax.random.split(jax.random.key(2), (B, T)),
    "mask": np.arange(T)[None] > 3,
  }
  certificate = certify(counting, params, state, xs)
  assert certificate.ok, f"{certificate}\n{certificate.describe_failure()}"


@pytest.mark.parametrize(
  ("xs", "settings", "message"),
  [
    (np.ones((1, 12)), {}, "xs must have at least 13 tokens, got 12"),
    (np.ones((1, 0)), {}, "xs must have at least 1 token along axis 1, got"),
    ((), {}, "the arrays in xs must have one common number of tokens along"),
    (np.ones((1, 20)), {"axis": 2}, "xs must have a time axis 2, got shape"),
    (np.ones((1, 20)), {"policy": "rewnid"}, "policy must be one of"),
    (np.ones((1, 20)), {"policy": "rewind"}, "policy 'rewind' needs `rewind`"),
    (np.ones((1, 20)), {}, "the out that step returns must have a time axis 1"),
  ],
)
def test_invalid_argument_raises(xs, settings, message):
  """Fails if the message does not name the argument of the user."""
  with pytest.raises(ValueError, match=f"^{message}"):
    certify(lambda p, s, x: (s, x.sum()), (), 0.0, xs, **settings)


def test_integer_state_is_compared(one_size):
  """Fails if a position that restarts in each chunk passes."""

  def step(params, state, chunk):
    return jnp.int32(chunk.shape[1]), (chunk * params).sum().reshape(1, 1)

  certificate = certify(step, jnp.ones(()), 0, jnp.ones((1, T)))
  assert certificate.describe_failure().startswith("state in float64")
