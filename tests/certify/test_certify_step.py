"""Certificates of steps in plain JAX: correct steps, and planted faults."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from slim.certify import Certificate, certify
from slim.certify.checks import check_state_dtypes
from slim.certify.gradients import ScanCall

B, T, D, V = 2, 40, 3, 64


def make_inputs(state_dtype="float32"):
  """Returns params, state and xs for the steps below."""
  random = np.random.default_rng(0)
  arrays = {
    "w": random.normal(size=(D, D)),
    "decay": 0.9 * np.ones(D),
    "out": random.normal(size=(D, V)),
  }
  params = {name: jnp.asarray(x, "float32") for name, x in arrays.items()}
  state = jnp.asarray(random.normal(size=(B, D)), state_dtype)
  xs = {
    name: jnp.asarray(random.normal(size=(B, T, D)), "float32")
    for name in ("x", "target")
  }
  return params, state, xs


def token_updates(params, chunk):
  """Returns what each token adds to the state."""
  return jnp.tanh(chunk["x"] @ params["w"])


def loss(ys, chunk):
  """Sums the squared errors of a chunk."""
  return jnp.square(ys - chunk["target"]).sum().reshape(1, 1)


def add(params, state, chunk, change=lambda x: x):
  """Sums the updates into the state, after `change`."""
  ys = state[:, None] + jnp.cumsum(change(token_updates(params, chunk)), 1)
  return ys[:, -1], loss(ys, chunk)


def subtract(params, after, chunk, step=add, decay=None, forget=False):
  """Undoes `add`, with a `decay`, or without the cotangent (`forget`)."""
  added = token_updates(params, chunk)
  if decay is None:
    before = after - jax.lax.stop_gradient(added.sum(1))
  else:
    factors = decay ** jnp.arange(added.shape[1])[::-1]
    added = jnp.einsum("t,btd->bd", factors, added)
    before = after - jax.lax.stop_gradient(added)
    before = before / decay ** chunk["x"].shape[1]
  if forget:
    before = jax.lax.stop_gradient(before)
  after, out = step(params, before, chunk)
  return before, out, after


def recur(params, state, chunk, decay=None, cut=lambda x: x, ys_of=loss):
  """Runs a decaying recurrence token by token."""
  decay = params["decay"][None] if decay is None else decay

  def token(s, x):
    s = (decay * s + x).astype(s.dtype)
    return s, s

  added = jnp.moveaxis(token_updates(params, chunk), 1, 0)
  state, ys = jax.lax.scan(token, cut(state), added)
  return state, ys_of(jnp.moveaxis(ys, 0, 1).astype(added.dtype), chunk)


def dropped(params, state, chunk):
  """Draws a dropout mask per chunk, which depends on the chunk size."""

  def change(x):
    mask = jax.random.bernoulli(jax.random.key(0), 0.5, x.shape)
    return jnp.where(mask, x, 0)

  return add(params, state, chunk, change)


def normalized(params, state, chunk):
  """Subtracts the maximum over the chunk, which depends on later tokens."""
  return recur(
    params,
    state,
    chunk | {"x": jnp.exp(chunk["x"] - chunk["x"].max(1, keepdims=True))},
    ys_of=lambda ys, _: ys,
  )


def with_logits(params, state, chunk):
  """Returns the logits of all tokens, for a loss outside of the step."""
  return recur(params, state, chunk, ys_of=lambda ys, _: ys @ params["out"])


DECAY = functools.partial(recur, decay=0.9)


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
      "a state that decays needs policy 'store' or 'sqrt'",
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
    (np.ones((1, 11)), {}, "xs must have at least 12 tokens, got 11"),
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


@pytest.mark.parametrize(
  ("step", "rewind", "failure", "cause"),
  [
    (
      normalized,
      None,
      "outs in float64",
      "depends on later tokens, such as by a max",
    ),
    (dropped, None, "outs in float64", "depends on where chunks begin: random"),
    (
      functools.partial(recur, cut=jax.lax.stop_gradient),
      None,
      "gradient of params of w in float64",
      "look for stop_gradient",
    ),
    (with_logits, None, "bytes per chunk in float32", "outs for every token"),
    pytest.param(
      DECAY,
      functools.partial(subtract, step=DECAY),
      "rewound states in float64",
      "a state that decays needs policy 'store' or 'sqrt'",
      marks=pytest.mark.slow,  # The complex case above covers it.
    ),
    (
      DECAY,
      functools.partial(subtract, step=DECAY, decay=0.9),
      "decay of the state in float64",
      "the state decays, so rewinding amplifies its rounding errors",
    ),
    (
      add,
      functools.partial(subtract, forget=True),
      "gradient of params of w in float64",
      "drops the cotangent of the state",
    ),
  ],
  ids=[
    "maximum over the sequence",
    "dropout per chunk",
    "stop_gradient between chunks",
    "all logits",
    "rewound without the decay",
    "rewound with the decay",
    "forgotten cotangent",
  ],
)
def test_fault_fails_with_its_cause(request, step, rewind, failure, cause):
  """Fails if a wrong gradient passes, or the cause is not named."""
  if "bytes" not in failure:
    request.getfixturevalue("one_size")
  certificate = certify(
    step,
    *make_inputs(),
    policy="store" if rewind is None else "rewind",
    rewind=rewind,
  )
  assert not certificate.ok, str(certificate)
  line = certificate.describe_failure()
  assert line.startswith(failure), line
  assert cause in line
  assert "\n" not in line


def test_narrow_state_fails():
  """Fails if a bfloat16 state passes, which rounds each update."""
  call = ScanCall(recur, *make_inputs("bfloat16"), 1, "store", None)
  [check] = check_state_dtypes(call, "bfloat16")
  line = Certificate((check,)).describe_failure()
  assert "the state is bfloat16: keep it in float32 or wider" in line
