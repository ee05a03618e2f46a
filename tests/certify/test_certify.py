"""Certificates of steps in plain JAX: right ones, and planted faults."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from slim.certify import certify

B, T, D, V = 2, 40, 3, 64


def make_inputs(state_dtype="float32"):
  """The params, state and xs of the steps below."""
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


def of_tokens(params, chunk):
  """What each token adds to the state."""
  return jnp.tanh(chunk["x"] @ params["w"])


def loss(ys, chunk):
  """The sum of the errors of a chunk."""
  return jnp.square(ys - chunk["target"]).sum().reshape(1, 1)


def add(params, state, chunk, change=lambda x: x):
  """A state that is a sum of what `change` makes of the additions."""
  ys = state[:, None] + jnp.cumsum(change(of_tokens(params, chunk)), 1)
  return ys[:, -1], loss(ys, chunk)


def take_off(params, after, chunk, step=add, decay=None, forget=False):
  """Undoes `add`; with `decay`, or with derivatives that are forgotten."""
  added = of_tokens(params, chunk)
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
  """A decaying recurrence, token by token."""
  decay = params["decay"][None] if decay is None else decay

  def token(s, x):
    s = (decay * s + x).astype(s.dtype)
    return s, s

  added = jnp.moveaxis(of_tokens(params, chunk), 1, 0)
  state, ys = jax.lax.scan(token, cut(state), added)
  return state, ys_of(jnp.moveaxis(ys, 0, 1).astype(added.dtype), chunk)


def dropped(params, state, chunk):
  """Dropout whose mask is drawn anew for each chunk."""

  def change(x):
    mask = jax.random.bernoulli(jax.random.key(0), 0.5, x.shape)
    return jnp.where(mask, x, 0)

  return add(params, state, chunk, change)


def normalised(params, state, chunk):
  """Additions less their largest in the sequence, as of unsafe features."""
  return recur(
    params,
    state,
    chunk | {"x": jnp.exp(chunk["x"] - chunk["x"].max(1, keepdims=True))},
    ys_of=lambda ys, _: ys,
  )


def with_logits(params, state, chunk):
  """All logits are returned, for a loss outside."""
  return recur(params, state, chunk, ys_of=lambda ys, _: ys @ params["out"])


DECAY = functools.partial(recur, decay=0.9)


@pytest.mark.parametrize(
  ("step", "settings"),
  [
    (recur, {"policy": "store"}),
    (recur, {"policy": "sqrt"}),
    (add, {"policy": "rewind", "rewind": take_off}),
  ],
  ids=["store", "sqrt", "rewind"],
)
def test_what_is_right_is_certified(step, settings):
  """Nobody would believe what it says of others."""
  certificate = certify(step, *make_inputs(), **settings)
  assert certificate.ok, f"{certificate}\n{certificate.describe_failure()}"


@pytest.mark.parametrize(
  ("step", "rewind", "failure", "cause"),
  [
    (
      normalised,
      None,
      "outs in float64",
      "depends on later ones, such as a max",
    ),
    (dropped, None, "outs in float64", "depends on where chunks begin: random"),
    (
      functools.partial(recur, cut=jax.lax.stop_gradient),
      None,
      "gradient of params of w in float64",
      "look for stop_gradient",
    ),
    (with_logits, None, "bytes a chunk in float32", "outs of every token"),
    (
      DECAY,
      functools.partial(take_off, step=DECAY),
      "rewound states in float64",
      "a state that decays takes policy 'store' or 'sqrt'",
    ),
    (
      DECAY,
      functools.partial(take_off, step=DECAY, decay=0.9),
      "fading of the state in float64",
      "the state decays, so rewinding magnifies its rounding errors",
    ),
    (
      add,
      functools.partial(take_off, forget=True),
      "gradient of params of w in float64",
      "forgets the state's cotangent",
    ),
  ],
  ids=[
    "maximum over the sequence",
    "dropout by chunks",
    "cut between chunks",
    "all logits",
    "rewound without the decay",
    "rewound with the decay",
    "forgotten cotangent",
  ],
)
def test_a_fault_is_caught_and_named(step, rewind, failure, cause):
  """Somebody would train with it."""
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


def test_a_narrow_state_is_named():
  """Each chunk would round what is added to it."""
  certificate = certify(recur, *make_inputs("bfloat16"))
  line = certificate.describe_failure()
  assert "the state is bfloat16: keep it in float32 or wider" in line
