"""Certificates of steps in plain JAX with planted faults."""

import functools

import jax
import jax.numpy as jnp
import pytest

from slim.certify import Certificate, certify
from slim.certify.checks import check_state_dtypes
from slim.certify.gradients import ScanCall
from tests.certify.steps import add, make_inputs, recur, subtract


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
      "a state that decays has to be `kept`, or needs policy",
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
    request.getfixturevalue("float64_only")
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


def give_back(params, given, chunk):
  """Undoes nothing, which is right for a state that is kept."""
  after, out = DECAY(params, given, chunk)
  return given, out, after


@pytest.mark.slow
@pytest.mark.parametrize("kept", [False, True])
def test_a_state_that_decays_has_to_be_kept(one_size, kept):
  """Fails if a gated leaf that is declared undone passes."""
  certificate = certify(
    DECAY, *make_inputs(), policy="rewind", rewind=give_back, kept=kept
  )
  assert certificate.ok == kept, str(certificate)
  if not kept:
    line = certificate.describe_failure()
    assert line.startswith("rewound states in float64"), line
    assert "a state that decays has to be `kept`" in line


def test_narrow_state_fails():
  """Fails if a bfloat16 state passes, which rounds each update."""
  call = ScanCall(recur, *make_inputs("bfloat16"), 1, "store", None)
  [check] = check_state_dtypes(call, "bfloat16")
  line = Certificate((check,)).describe_failure()
  assert "the state is bfloat16: keep it in float32 or wider" in line
