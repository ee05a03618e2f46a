"""Attention over an append-only cache is softmax attention to all tokens."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from slim.kernels import (
  KVCache,
  append_softmax_attention,
  init_cache,
  scan,
  softmax_attention,
)
from tests.helpers import AS_USERS, assert_gradients_close, pairwise
from tests.kernels.programs import copies_in_loops

B, T, BEFORE, ROOM, H, K, V = 2, 13, 3, 19, 4, 3, 5
TOLERANCES = {"float64": 1e-13, "float32": 3e-6}
SETTINGS = {
  "plain": {},
  "window": {"local_window_size": (4, 0)},
  "scale": {"scale": 0.3},
}


def make_inputs(groups, dtype):
  """q, k, v of T tokens, and a cache that has some tokens before them."""
  random = np.random.default_rng(groups)

  def normal(*shape):
    return jnp.asarray(random.normal(size=shape), dtype)

  cache = KVCache(normal(B, ROOM, groups * K), normal(B, ROOM, groups * V))
  return {
    "q": normal(B, T, H, K),
    "k": normal(B, T, groups, K),
    "v": normal(B, T, groups, V),
    "cache": cache,
  }


def right(inputs, settings):
  """Softmax attention to the tokens before and to these."""
  new = inputs["k"], inputs["v"]
  k, v = (
    jnp.concatenate([old[:, :BEFORE].reshape(B, BEFORE, *x.shape[2:]), x], 1)
    for old, x in zip(inputs["cache"], new, strict=True)
  )
  y = softmax_attention(
    inputs["q"], k, v, is_causal=True, query_offset=BEFORE, **settings
  )
  cache = [
    old.at[:, BEFORE : BEFORE + T].set(x.reshape(B, T, -1))
    for old, x in zip(inputs["cache"], new, strict=True)
  ]
  return y, tuple(cache)


def by_chunks(inputs, settings, chunk_size):
  """The same chunk by chunk, undone by moving the position back."""

  def step(params, state, chunk):
    position, cache = state
    y, cache = append_softmax_attention(
      *chunk, cache, position, q_block_size=2, k_block_size=3, **settings
    )
    return (position + y.shape[1], cache), y

  def rewind(params, state_after, chunk):
    position, cache = state_after
    position = position - chunk[0].shape[1]
    after, y = step(params, (position, cache), chunk)
    return (position, after[1]), y, after

  state = jnp.int32(BEFORE), inputs["cache"]
  (_, cache), y = scan(
    step,
    (),
    state,
    (inputs["q"], inputs["k"], inputs["v"]),
    chunk_size=chunk_size,
    policy="rewind",
    rewind=rewind,
  )
  return y, tuple(cache)


def outputs_and_gradients(run, inputs):
  """Runs, and differentiates a loss of all outputs in all inputs."""

  def loss(inputs):
    outputs = run(inputs)
    total = 0.0
    for i, x in enumerate(jax.tree.leaves(outputs)):
      weights = np.random.default_rng(i).normal(size=x.shape)
      total += (x * jnp.asarray(weights, x.dtype)).sum()
    return total, outputs

  return jax.jit(jax.grad(loss, has_aux=True))(inputs)


@pytest.mark.parametrize(
  "case",
  pairwise(
    chunk_size=[4, T],
    groups=[2, 1],
    kind=["window", "plain"],
    dtype=list(TOLERANCES),
  )
  + [
    pytest.param(case, marks=pytest.mark.slow)
    for case in (
      {"chunk_size": 1, "groups": 4, "kind": "scale", "dtype": "float64"},
      {"chunk_size": 5, "groups": 1, "kind": "scale", "dtype": "float64"},
    )
  ],
)
def test_any_cut_is_the_whole(x64, case):
  """Fails if a chunk misses keys, or the gradient of a cache is lost."""
  inputs, settings = (
    make_inputs(case["groups"], case["dtype"]),
    SETTINGS[case["kind"]],
  )
  found = outputs_and_gradients(
    lambda inputs: by_chunks(inputs, settings, case["chunk_size"]), inputs
  )
  expected = outputs_and_gradients(
    lambda inputs: right(inputs, settings), inputs
  )
  assert_gradients_close(found, expected, TOLERANCES[case["dtype"]])


@pytest.mark.slow
def test_a_mask_of_positions_hides_keys(x64):
  """Fails if documents that share a cache see each other."""
  inputs = make_inputs(2, "float64")
  document = jnp.sort(jax.random.randint(jax.random.key(0), (B, ROOM), 0, 3))

  def mask_fn(i, j):
    of_query = jnp.take(document, BEFORE + i[:, 0], axis=1)
    return (of_query[:, :, None] == document[:, j[0]][:, None])[:, None]

  @jax.jit
  def run(q, k, v, cache):
    return append_softmax_attention(
      q, k, v, cache, BEFORE, mask_fn=mask_fn, q_block_size=4, k_block_size=5
    )

  y, _ = run(**inputs)
  whole = document[:, : BEFORE + T]
  mask = (whole[:, BEFORE:, None] == whole[:, None])[:, None]
  expected, _ = right(inputs, {"mask": mask})
  np.testing.assert_allclose(y, expected, rtol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("heads", [2, 1])
def test_no_loop_copies_a_cache(heads):
  """Fails if XLA copies a cache or its cotangent in each chunk."""
  length, room, width = 512, 2048, 16

  def loss(x):
    cache = init_cache(1, room, heads, width, width)

    def step(params, state, chunk):
      position, cache = state
      q = chunk.reshape(1, -1, heads, width)
      y, cache = append_softmax_attention(
        q, 2 * q, 3 * q, cache, position, q_block_size=64, k_block_size=64
      )
      return (position + y.shape[1], cache), y.reshape(chunk.shape)

    def rewind(params, after, chunk):
      position = after[0] - chunk.shape[1]
      state, y = step(params, (position, after[1]), chunk)
      return (position, state[1]), y, state

    _, y = scan(
      step,
      (),
      (jnp.int32(0), cache),
      x,
      chunk_size=128,
      policy="rewind",
      rewind=rewind,
    )
    return (y * y).sum()

  shape = jax.ShapeDtypeStruct((1, length, heads * width), jnp.float32)
  program = (
    jax.jit(jax.grad(loss), compiler_options=AS_USERS)
    .lower(shape)
    .compile()
    .as_text()
  )
  copies = copies_in_loops(program, room * heads * width)
  assert not copies, copies


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"position": np.zeros(2, int)}, "position must be one integer"),
    ({"position": 0.5}, "position must be one integer"),
    ({"k": np.zeros((1, 3, 1, 4))}, "k must have shape"),
    ({"scale": jnp.ones(1)}, "scale must be a number"),
    (
      {"cache": init_cache(1, 2, 1, 4, 4)},
      r"cache.k must have shape \[1, S >= 3, 4\]",
    ),
    ({"q_block_size": 0}, "q_block_size must be a positive integer"),
  ],
)
def test_wrong_arguments_are_named(change, message):
  """Fails if a wrong argument fails inside, or not at all."""
  arguments = {
    "q": np.zeros((1, 3, 2, 4), np.float32),
    "k": np.zeros((1, 3, 1, 4), np.float32),
    "v": np.zeros((1, 3, 1, 4), np.float32),
    "cache": init_cache(1, 8, 1, 4, 4),
    "position": 0,
  }
  if "k" in change:
    change = {"k": np.zeros((1, 2, 1, 4), np.float32)}
  with pytest.raises(ValueError, match=message):
    append_softmax_attention(**(arguments | change))


def test_a_narrower_cache_is_refused(x64):
  """Fails if the cache that is returned has another dtype."""
  x, cache = jnp.zeros((1, 3, 1, 4)), init_cache(1, 8, 1, 4, 4)
  message = "cache.k must not be narrower than q, k and v, got float32"
  with pytest.raises(ValueError, match=message):
    append_softmax_attention(x, x, x, cache, 0)


def test_a_second_derivative_is_refused():
  """Fails if a second derivative is wrong instead of an error."""
  inputs = make_inputs(2, "float32")

  def run(q):
    y, _ = append_softmax_attention(
      q, inputs["k"], inputs["v"], inputs["cache"], 0
    )
    return y.sum()

  with pytest.raises(ValueError, match="append_softmax_attention has first"):
    jax.eval_shape(jax.grad(lambda q: jax.grad(run)(q).sum()), inputs["q"])
