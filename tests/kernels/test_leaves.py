"""Kernels with custom derivatives accept leaves of all kinds.

Each kernel is compared with the same function differentiated plainly.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from slim.kernels import (
  POLICIES,
  chunked_map,
  chunked_sum,
  reversible,
  reversible_scan,
  scan,
)
from slim.kernels.support.cotangents import inexact_leaves
from tests.helpers import TOLERANCES, assert_gradients_close

B, T, D, C = 2, 5, 3, 2


def make_arguments(kind):
  """Params, a state and xs, of which only some have a gradient."""
  random = np.random.default_rng(0)

  def normal(*shape):
    x = random.normal(size=shape)
    return x + 1j * random.normal(size=shape) if kind == "complex" else x

  batch = 0 if kind == "batch of 0" else B
  params = {
    "w": normal(D, D),
    "key": jax.random.key(0),
    "integers": jnp.arange(1, D + 1),
    "flag": jnp.array(True),
    "empty": jnp.zeros((0, D)),
    # Numbers, not arrays.
    "float": 0.5,
    "int": 3,
    "bool": True,
    "numpy": np.float64(2),
  }
  state = {"total": normal(batch, D), "key": jax.random.key(1), "n": 0}
  state |= {"float": 0.0, "flag": False, "empty": jnp.zeros((batch, 0))}
  xs = {
    "x": normal(batch, T, D),
    "tokens": random.integers(9, size=(batch, T, 1)),
    "mask": random.integers(2, size=(batch, T, 1)) > 0,
    "keys": jax.random.split(jax.random.key(2), (batch, T)),
    "off": np.zeros((batch, T, 0)),
  }
  return params, state, xs


def layer(params, x):
  """A layer that needs all of its parameters."""
  first = jax.random.key_data(params["key"])[0] % 3 + 1
  factor = params["float"] * params["int"] * params["bool"] * params["numpy"]
  y = jnp.tanh(x @ params["w"] * factor) * params["integers"].sum() / first
  return jnp.where(params["flag"], y, 0)


def of_tokens(params, chunk):
  """A position-wise function."""
  y = layer(params, chunk["x"] * chunk["mask"] + chunk["tokens"])
  bits = jax.random.key_data(chunk["keys"])[..., :1] % 2
  return {"y": y + bits, "off": chunk["off"] * 2}


def sums(params, chunk):
  """Sums over tokens."""
  return jax.tree.map(jnp.sum, of_tokens(params, chunk))


def step(params, state, chunk):
  """A sum over tokens; numbers of the state count them."""
  outs = of_tokens(params, chunk)
  totals = state["total"][:, None] + jnp.cumsum(outs["y"], 1)
  size = chunk["x"].shape[1]
  state = state | {
    "total": totals[:, -1],
    "n": state["n"] + size,
    "float": state["float"] + size * params["integers"].sum().astype("float32"),
    "flag": state["flag"] | params["flag"],
  }
  return state, outs | {"totals": totals, "keys": chunk["keys"]}


def rewind(params, after, chunk):
  """Undoes `step`."""
  y = jax.lax.stop_gradient(of_tokens(params, chunk)["y"].sum(1))
  before = after | {"total": after["total"] - y}
  later, outs = step(params, before, chunk)
  return before, outs, later | {"n": after["n"], "float": after["float"]}


def sublayer(params, x, context, replay):
  """A sublayer that adds a state and its layer; a bool is its decision."""
  replay = (x.real > 0) if replay is None else replay
  y = jnp.where(replay, layer(params, x), context["total"])
  return y, (context["total"] * context["float"], context["n"]), replay


def streams_of(xs):
  """The streams of reversible layers."""
  return xs["x"][:, 0], xs["x"][:, 1]


def layers(params, state, xs):
  """Two sublayers, plainly."""
  one, two = streams_of(xs)
  y, out, _ = sublayer(params, two, state, None)
  one, two = two, one + y
  y, other, _ = sublayer(params, two, state, None)
  return (two, one + y), [out, other]


def with_axis(tree):
  """Adds the axis of layers, of length 1."""
  return jax.tree.map(lambda x: jnp.asarray(x)[None], tree)


def scanned_layers(params, state, xs):
  """The layers by a scan over one; without the axis of layers."""
  streams, outs = reversible_scan(
    [sublayer] * 2,
    [with_axis(params)] * 2,
    streams_of(xs),
    [with_axis(state)] * 2,
  )
  return streams, jax.tree.map(lambda x: jnp.squeeze(x, 0), outs)


# By name, a way to compute, and the same plainly. Two ways that have the same
# plain function are compared with one result of it.
WAYS = {
  **{
    policy: (
      functools.partial(scan, step, chunk_size=C, policy=policy, rewind=rewind),
      step,
    )
    for policy in POLICIES
  },
  "chunked_map": (
    lambda params, _, xs: chunked_map(of_tokens, params, xs, chunk_size=C),
    lambda params, _, xs: of_tokens(params, xs),
  ),
  "chunked_sum": (
    lambda params, _, xs: chunked_sum(sums, params, xs, chunk_size=C),
    lambda params, _, xs: sums(params, xs),
  ),
  "reversible": (
    lambda params, state, xs: reversible(
      [sublayer] * 2, [params] * 2, streams_of(xs), [state] * 2
    ),
    layers,
  ),
  "reversible_scan": (scanned_layers, layers),
}


def gradients_and_outputs(run, arguments):
  """Differentiates a loss with respect to all arguments."""

  def loss(*arguments):
    found = jax.tree.map(jnp.asarray, run(*arguments))
    total = sum(
      jnp.sum(x.real**2 + 3 * x.imag**2 + x.real * (1 + i))
      for i, x in enumerate(inexact_leaves(found))
    )
    return total, found

  gradient = jax.grad(loss, (0, 1, 2), has_aux=True, allow_int=True)
  return gradient(*arguments)


def compiled(run, kind):
  """Computes gradients and outputs in one program."""
  arguments = make_arguments(kind)
  # Closed over, so that numbers and keys are not traced, as in eager mode.
  return jax.jit(lambda: gradients_and_outputs(run, arguments))()


plainly = functools.cache(compiled)  # All that call it have 64-bit types.


def assert_alike(found, right):
  """Compares gradients and outputs, also keys and empty arrays."""
  for a, b in zip(found, right, strict=True):
    assert_gradients_close(a, b, TOLERANCES["float64"])
    for x, y in zip(*map(jax.tree.leaves, (a, b)), strict=True):
      assert x.dtype == y.dtype and x.shape == y.shape
      if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
        assert (x == y).all()


@pytest.mark.parametrize("kind", ["real", "complex", "batch of 0"])
@pytest.mark.parametrize("way", WAYS)
def test_leaves_of_all_kinds(x64, way, kind):
  """Fails if a key, integer, number or empty array is refused or lost.

  Also if a complex gradient is conjugated, or that of its real part.
  """
  run, plain = WAYS[way]
  assert_alike(compiled(run, kind), plainly(plain, kind))


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
def test_leaves_of_all_kinds_eagerly(x64, way):
  """Fails if an array that is not traced is treated as one that is."""
  run, plain = WAYS[way]
  found = gradients_and_outputs(run, make_arguments("real"))
  assert_alike(found, plainly(plain, "real"))


def test_number_in_the_state_takes_the_dtype_of_the_step():
  """Fails if a count that starts from 0 is refused, or changes the outputs."""

  def count(params, state, chunk):
    state = state + chunk.sum(1)[0]
    return state, chunk * state

  xs = jnp.ones((1, 5), jnp.bfloat16)
  results = jax.jit(
    lambda: [scan(count, (), number, xs, chunk_size=2) for number in (0, 0.0)]
  )()
  for state, outs in results:
    assert (state, state.dtype) == (5, jnp.bfloat16)
    assert outs.dtype == jnp.bfloat16
  with pytest.raises(ValueError, match=r"leaves \['complex64.*got \['float32"):
    scan(lambda p, s, x: (s.real, x), (), 1j, jnp.ones((1, 5)), chunk_size=2)
