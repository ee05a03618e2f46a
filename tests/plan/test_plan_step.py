"""A plan for a recurrence of a user's own."""

import jax
import jax.numpy as jnp
import pytest

from slim.kernels import scan
from slim.plan import Option, plan

B, T, D = 4, 128, 64


def step(params, state, chunk):
  """A recurrence in plain JAX, token by token, and a loss; all of it kept."""

  def token(s, x):
    s = params["decay"] * s + jnp.tanh(x @ params["w"])
    return s, s

  state, ys = jax.lax.scan(token, state, jnp.moveaxis(chunk["x"], 1, 0))
  loss = jnp.sum((jnp.moveaxis(ys, 0, 1) - chunk["target"]) ** 2)
  return state, loss.reshape(1, 1)


def array(*shape):
  """The shape of an array, as a plan takes it."""
  return jax.ShapeDtypeStruct(shape, jnp.float32)


PARAMS = {"decay": array(1, D), "w": array(D, D)}
XS = {"x": array(B, T, D), "target": array(B, T, D)}
STATE = array(B, D)


@pytest.fixture(scope="module", autouse=True)
def no_process():
  """As on a device, whose memory the process does not share."""
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr("slim.plan.search._process_bytes", lambda: 0)
    yield


@pytest.fixture(scope="module")
def everything(no_process):
  """A plan in which all is compiled, as nothing fits."""
  return plan(step, PARAMS, STATE, XS, budget="1KiB")


def test_a_recurrence_is_planned(everything):
  """Without it only our own models could be."""
  fitting = sorted(row.total_bytes for row in everything.rows)[3]
  budget = f"{fitting / 2**10 + 0.01:.2f}KiB"
  found = plan(step, PARAMS, STATE, XS, budget=budget)
  choice = found.choice
  assert choice == next(x for x in everything.rows if x.total_bytes <= fitting)

  def loss(params, state, xs):
    _, outs = scan(step, params, state, xs, **choice.option.arguments)
    return jnp.sum(outs)

  compiled = jax.jit(jax.grad(loss)).lower(PARAMS, STATE, XS).compile()
  memory = compiled.memory_analysis()
  assert choice.activation_bytes == memory.temp_size_in_bytes
  held = memory.argument_size_in_bytes + memory.output_size_in_bytes
  # The compiler adds some bytes for the places of the results.
  assert sum(found.resident_bytes.values()) == pytest.approx(held, abs=64)
  assert choice.total_bytes == sum(
    found.resident_bytes.values(), choice.activation_bytes
  )


def test_what_is_plenty_needs_no_chunks():
  """A recurrence would be cut that need not be, and take longer."""
  found = plan(step, PARAMS, STATE, XS, budget="1GiB", others=array(2**20, 2))
  assert found.choice.option == Option("full", T, "store", False)
  assert found.choice.time == 1
  assert found.resident_bytes["others"] == 2**23
  assert all(row.total_bytes is None for row in found.rows[1:])


def test_the_formula_is_near(everything):
  """The column would mean nothing: compiled is what it is compared with."""
  for row in everything.rows:
    ratio = row.formula_bytes / row.activation_bytes
    assert 0.6 < ratio < 1.6, (row, ratio)


def count(params, state, chunk):
  """A step with leaves of all kinds, numbers among them; complex outs."""
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


def test_leaves_of_all_kinds_are_planned():
  """A key, a number or an input that is off would end in a traceback."""
  params = {"key": jax.random.key(0), "scale": 0.5, "flag": True, "n": 3}
  state = {"total": array(B), "n": 0}
  xs = {"x": array(B, 20), "off": array(B, 20, 0)}
  xs["mask"] = jax.ShapeDtypeStruct((B, 20), bool)
  others = {"step": 3, "rate": 0.1, "key": jax.random.key(1)}
  found = plan(
    count, params, state, xs, budget="0.01KiB", rewind=undo, others=others
  )
  assert {row.option.policy for row in found.rows} == {
    "store",
    "sqrt",
    "rewind",
  }
  assert all(row.total_bytes > 0 for row in found.rows)
  assert found.resident_bytes["gradients"] == 4  # Of the float alone.


@pytest.mark.parametrize(
  ("xs", "message"),
  [
    ((), "the arrays in xs must have one common number of tokens along axis 1"),
    (array(2, 0), "xs must have at least 1 token along axis 1, got none"),
    (array(2), r"xs must have a time axis 1, got shape \(2,\)"),
  ],
)
def test_what_has_no_tokens_is_refused(xs, message):
  """The error would be an index that is out of range."""
  with pytest.raises(ValueError, match=f"^{message}"):
    plan(step, PARAMS, STATE, xs, budget="1GiB")
