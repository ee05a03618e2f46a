"""A state of which some leaves are stored a chunk, and others are undone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from slim.kernels import scan, sum_and_grad
from tests.helpers import TOLERANCES, assert_gradients_close, pairwise

T, B, D = 11, 2, 3
KEPT = {"sum": False, "last": True, "memory": (True, True), "count": False}
PREFIX = KEPT | {"memory": True}


def step(params, state, chunk):
  """A sum, a decaying memory with a pair of leaves, the last token, a count."""
  x = jnp.tanh(chunk @ params["w"])
  shifted = jnp.concatenate([state["last"][:, None], x[:, :-1]], 1)

  def token(memory, x):
    slow, fast = memory
    memory = 0.9 * slow + x, 0.1 * fast + x * x
    return memory, memory[0] * memory[1]

  memory, y = jax.lax.scan(token, state["memory"], jnp.moveaxis(x, 1, 0))
  sums = state["sum"][:, None] + jnp.cumsum(x, 1)
  positions = state["count"] + jnp.arange(x.shape[1])
  y = jnp.moveaxis(y, 0, 1) + jnp.sin(sums) * shifted
  y = y * (1 + positions[None, :, None] % 3)
  after = {
    "sum": sums[:, -1],
    "last": x[:, -1],
    "memory": memory,
    "count": state["count"] + x.shape[1],
  }
  return after, y


def rewind(params, given, chunk):
  """Undoes the sum and the count; the rest is given as it was before."""
  added = jnp.tanh(chunk @ params["w"]).sum(1)
  before = given | {
    "sum": given["sum"] - jax.lax.stop_gradient(added),
    "count": given["count"] - chunk.shape[1],
  }
  after, y = step(params, before, chunk)
  return before, y, after


def make_inputs(dtype):
  """Params, an initial state that is not zero, xs."""
  random = np.random.default_rng(0)

  def normal(*shape):
    return jnp.asarray(random.normal(size=shape), dtype)

  state = {
    "sum": normal(B, D),
    "last": normal(B, D),
    "memory": (normal(B, D), normal(B, D)),
    "count": jnp.int32(4),
  }
  return {"w": normal(D, D)}, state, normal(B, T, D)


def gradients(run, inputs):
  """Differentiates a loss of all outputs in all inputs."""
  weights = np.random.default_rng(1).normal(size=(B, T, D))

  def loss(params, state, xs):
    state, y = run(params, state, xs)
    rest = [x for x in jax.tree.leaves(state) if x.dtype != jnp.int32]
    return (y * jnp.asarray(weights, y.dtype)).sum() + sum(
      jnp.sin(x).sum() for x in rest
    )

  grad = jax.jit(jax.grad(loss, argnums=(0, 1, 2), allow_int=True))
  params_ct, state_ct, xs_ct = grad(*inputs)
  return params_ct, state_ct | {"count": 0.0}, xs_ct


@pytest.mark.parametrize(
  "case",
  pairwise(chunk_size=[4, 1], kept=[PREFIX, KEPT], dtype=list(TOLERANCES)),
)
def test_a_mixed_state_has_the_whole_gradient(x64, case):
  """Fails if a kept leaf is undone, or its cotangent is lost."""
  inputs = make_inputs(case["dtype"])
  run = jax.tree_util.Partial(
    scan,
    step,
    chunk_size=case["chunk_size"],
    policy="rewind",
    rewind=rewind,
    kept=case["kept"],
  )
  tol = TOLERANCES[case["dtype"]]
  assert_gradients_close(gradients(run, inputs), gradients(step, inputs), tol)


@pytest.mark.parametrize(
  "chunk_size", [4, pytest.param(T, marks=pytest.mark.slow)]
)
def test_sum_and_grad_keeps_the_same(x64, chunk_size):
  """Fails if the summed loss walks back with other states."""
  params, state, xs = make_inputs("float64")

  def summed(params, state, xs):
    state, y = step(params, state, xs)
    return state, jnp.sin(y).sum()

  def undo(params, given, xs):
    before, y, after = rewind(params, given, xs)
    return before, jnp.sin(y).sum(), after

  found = jax.jit(
    lambda *args: sum_and_grad(
      summed,
      *args,
      chunk_size=chunk_size,
      policy="rewind",
      rewind=undo,
      kept=PREFIX,
    )
  )(params, state, xs)
  right = jax.jit(jax.value_and_grad(lambda p: summed(p, state, xs)[1]))(params)
  assert_gradients_close(found, right, TOLERANCES["float64"])


@pytest.mark.slow
def test_keeping_all_is_store(x64):
  """Fails if the two ways to keep all states differ in a bit."""
  inputs = make_inputs("float64")

  def undo_nothing(params, state, chunk):
    after, y = step(params, state, chunk)
    return state, y, after

  def run(**policy):
    return gradients(
      lambda *args: scan(step, *args, chunk_size=4, **policy), inputs
    )

  kept = run(policy="rewind", rewind=undo_nothing, kept=True)
  assert_gradients_close(kept, run(policy="store"), 1e-15)


@pytest.mark.parametrize(
  "kept", [None, 1, {"sum": True}, KEPT | {"memory": (True,)}]
)
def test_a_wrong_choice_is_named(kept):
  """Fails if a choice of another structure fails deep inside."""
  params, state, xs = make_inputs("float32")
  with pytest.raises(ValueError, match="kept must be a pytree of True and Fal"):
    scan(
      step,
      params,
      state,
      xs,
      chunk_size=4,
      policy="rewind",
      rewind=rewind,
      kept=kept,
    )
