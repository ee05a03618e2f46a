"""Layers by chunks: the same function in less memory."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from slim.kernels import chunked_map, chunked_sum
from slim.losses import cross_entropy_sums
from tests.helpers import TOLERANCES, assert_gradients_close

B, T, D, F, VOCAB = 2, 13, 4, 16, 11


def make(dtype):
  """Parameters, inputs and targets."""
  random = np.random.default_rng(0)

  def normal(*shape):
    return jnp.asarray(random.normal(size=shape), dtype)

  params = {"in": normal(D, F), "out": normal(F, D), "logits": normal(D, VOCAB)}
  targets = jnp.asarray(random.integers(0, VOCAB, (B, T)), jnp.int32)
  return params, normal(B, T, D), targets, normal(B, T)


def mlp(params, x):
  """A feed-forward layer."""
  return jnp.tanh(x @ params["in"]) @ params["out"]


def loss(params, chunk):
  """The cross-entropy of a layer of logits."""
  x, targets, weights = chunk
  return cross_entropy_sums(x @ params["logits"], targets, weights)


@pytest.mark.parametrize("dtype", list(TOLERANCES))
@pytest.mark.parametrize("chunk_size", [1, 4, 13, 20])
def test_chunks_are_the_whole(x64, chunk_size, dtype):
  """A chunk would be left out, or its gradient."""
  params, x, targets, weights = make(dtype)

  def value_and_gradients(by_chunks):
    def run(params, x):
      if by_chunks:
        y = chunked_map(mlp, params, x, chunk_size=chunk_size)
        sums = chunked_sum(
          loss, params, (y, targets, weights), chunk_size=chunk_size
        )
      else:
        y = mlp(params, x)
        sums = loss(params, (y, targets, weights))
      return sums.nll, (y, sums)

    gradient = jax.value_and_grad(run, (0, 1), has_aux=True)
    return jax.jit(gradient)(params, x)

  assert_gradients_close(
    value_and_gradients(True), value_and_gradients(False), TOLERANCES[dtype]
  )


def test_another_axis_of_time(x64):
  """Chunks would be cut from the batch, as if it were the sequence."""
  params, x, targets, weights = make("float64")
  parts = jax.tree.map(lambda x: jnp.swapaxes(x, 0, 1), (x, targets, weights))
  seen = []

  def one(params, chunk):
    seen.append(chunk[0].shape)
    return loss(params, chunk)

  found = chunked_sum(one, params, parts, chunk_size=4, axis=0)
  assert {shape[0] for shape in seen} == {1, 4}
  assert_gradients_close(found, loss(params, (x, targets, weights)), 1e-12)
  y = chunked_map(mlp, params, parts[0], chunk_size=4, axis=0)
  assert_gradients_close(y, jnp.swapaxes(mlp(params, x), 0, 1), 1e-12)


def activation_bytes(chunk_size, length):
  """The temporaries of a gradient of 50,000 logits a token."""
  params = jax.ShapeDtypeStruct((64, 50_000), jnp.float32)
  xs = (
    jax.ShapeDtypeStruct((1, length, 64), jnp.float32),
    jax.ShapeDtypeStruct((1, length), jnp.int32),
    jax.ShapeDtypeStruct((1, length), jnp.float32),
  )

  def run(params, xs):
    return chunked_sum(
      lambda kernel, chunk: loss({"logits": kernel}, chunk),
      params,
      xs,
      chunk_size=chunk_size,
    ).nll

  compiled = jax.jit(jax.grad(run)).lower(params, xs).compile()
  return compiled.memory_analysis().temp_size_in_bytes


def test_the_logits_are_those_of_a_chunk():
  """A large vocabulary would need gigabytes for a long sequence."""
  short, long = (activation_bytes(64, length) for length in (1024, 8192))
  assert short <= 8 * 64 * 50_000 * 4
  # The tokens themselves, and their cotangents.
  assert long - short <= 4 * (8192 - 1024) * 64 * 4
