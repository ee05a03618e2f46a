"""Plans of recurrences in plain JAX."""

import jax
import jax.numpy as jnp
import pytest

from slim.kernels import scan
from slim.plan import GradientChoice, plan

B, T, D = 4, 128, 64


def step(params, state, chunk):
  """A recurrence, token by token, that keeps all activations; and a loss."""

  def token(s, x):
    s = params["decay"] * s + jnp.tanh(x @ params["w"])
    return s, s

  state, ys = jax.lax.scan(token, state, jnp.moveaxis(chunk["x"], 1, 0))
  loss = jnp.sum((jnp.moveaxis(ys, 0, 1) - chunk["target"]) ** 2)
  return state, loss.reshape(1, 1)


def array(*shape):
  """Returns the shape of a float32 array."""
  return jax.ShapeDtypeStruct(shape, jnp.float32)


PARAMS = {"decay": array(1, D), "w": array(D, D)}
XS = {"x": array(B, T, D), "target": array(B, T, D)}
STATE = array(B, D)


@pytest.fixture(scope="module", autouse=True)
def no_process():
  """Counts no memory for the process, as on an accelerator."""
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr("slim.plan.search.process_bytes", lambda: 0)
    yield


@pytest.fixture(scope="module")
def everything(no_process):
  """Returns a plan in which nothing fits, so all candidates are compiled."""
  return plan(step, PARAMS, STATE, XS, budget="1KiB")


def test_recurrence(everything):
  """Fails if the choice does not fit as compiled by a user."""
  fitting = sorted(x.memory.total_bytes for x in everything.candidates)[3]
  budget = f"{fitting / 2**10 + 0.01:.2f}KiB"
  found = plan(step, PARAMS, STATE, XS, budget=budget)
  choice = found.choice
  assert choice == next(
    x for x in everything.candidates if x.memory.total_bytes <= fitting
  )

  def loss(params, state, xs):
    _, outs = scan(step, params, state, xs, **choice.gradient.scan_arguments)
    return jnp.sum(outs)

  compiled = jax.jit(jax.grad(loss)).lower(PARAMS, STATE, XS).compile()
  memory = compiled.memory_analysis()
  assert choice.memory.activation_bytes == memory.temp_size_in_bytes
  held = memory.argument_size_in_bytes + memory.output_size_in_bytes
  # The compiler adds some bytes for the addresses of the results.
  assert sum(found.resident_bytes.values()) == pytest.approx(held, abs=64)
  assert choice.memory.total_bytes == sum(
    found.resident_bytes.values(), choice.memory.activation_bytes
  )


def test_large_budget_needs_no_chunks():
  """Fails if a recurrence that fits whole is cut into chunks."""
  found = plan(step, PARAMS, STATE, XS, budget="1GiB", others=array(2**20, 2))
  assert found.choice.gradient == GradientChoice("full", T, "store", False)
  assert found.choice.time.relative == 1
  assert found.resident_bytes["others"] == 2**23
  assert all(x.memory is None for x in found.candidates[1:])


def test_estimate_is_near_compiled_memory(everything):
  """Fails if an estimate is off by more than a factor of 1.6."""
  for candidate in everything.candidates:
    ratio = candidate.estimated_bytes / candidate.memory.activation_bytes
    assert 0.6 < ratio < 1.6, (candidate, ratio)


def count(params, state, chunk):
  """Takes leaves of all kinds and Python numbers; returns complex outs."""
  y = chunk["x"] * params["scale"] * params["n"] * params["flag"]
  y *= jax.random.uniform(params["key"], (), y.dtype)
  state = {"total": state["total"] + y.sum(1), "n": state["n"] + y.shape[1]}
  return state, {"y": y.sum(1, keepdims=True) * 1j, "mask": chunk["mask"]}


def undo(params, after, chunk):
  """Undoes `count`."""
  start = after | {"total": jnp.zeros_like(after["total"])}
  added = jax.lax.stop_gradient(count(params, start, chunk)[0]["total"])
  before = {
    "total": after["total"] - added,
    "n": after["n"] - chunk["x"].shape[1],
  }
  state, outs = count(params, before, chunk)
  return before, outs, state


def test_leaves_of_all_kinds():
  """Fails if a key, a number or an empty input ends in a traceback."""
  params = {"key": jax.random.key(0), "scale": 0.5, "flag": True, "n": 3}
  state = {"total": array(B), "n": 0}
  xs = {"x": array(B, 20), "off": array(B, 20, 0)}
  xs["mask"] = jax.ShapeDtypeStruct((B, 20), bool)
  others = {"step": 3, "rate": 0.1, "key": jax.random.key(1)}
  found = plan(
    count, params, state, xs, budget="0.01KiB", rewind=undo, others=others
  )
  assert {x.gradient.policy for x in found.candidates} == {
    "store",
    "sqrt",
    "rewind",
  }
  assert all(x.memory.total_bytes > 0 for x in found.candidates)
  assert found.resident_bytes["gradients"] == 4  # Only of the float.


@pytest.mark.parametrize(
  ("xs", "message"),
  [
    ((), "the arrays in xs must have one common number of tokens along axis 1"),
    (array(2, 0), "xs must have at least 1 token along axis 1, got none"),
    (array(2), r"xs must have a time axis 1, got shape \(2,\)"),
  ],
)
def test_sequence_without_tokens_raises(xs, message):
  """Fails if the error is an index out of range."""
  with pytest.raises(ValueError, match=f"^{message}"):
    plan(step, PARAMS, STATE, xs, budget="1GiB")
