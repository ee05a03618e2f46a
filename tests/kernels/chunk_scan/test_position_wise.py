"""Position-wise layers by chunks compute the same in less memory."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from slim.kernels import chunked_map, chunked_sum
from slim.training.losses import cross_entropy_sums
from tests.helpers import TOLERANCES, assert_gradients_close, each_value

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
  """The cross-entropy of an output layer."""
  x, targets, weights = chunk
  return cross_entropy_sums(x @ params["logits"], targets, weights)


def value_and_gradients(by_chunks, params, x, targets, weights):
  """A loss of an MLP and its logits, by chunks or at once."""

  def run(params, x):
    if by_chunks:
      y = chunked_map(mlp, params, x, chunk_size=by_chunks)
      sums = chunked_sum(
        loss, params, (y, targets, weights), chunk_size=by_chunks
      )
    else:
      y = mlp(params, x)
      sums = loss(params, (y, targets, weights))
    return sums.nll, (y, sums)

  return jax.value_and_grad(run, (0, 1), has_aux=True)(params, x)


compiled = jax.jit(value_and_gradients, static_argnums=0)


@pytest.mark.parametrize(
  "case", each_value(chunk_size=[1, 4, 20], dtype=list(TOLERANCES))
)
def test_chunks_equal_the_whole(x64, case):
  """Fails if a chunk, or its gradient, is left out."""
  args = make(case["dtype"])
  found = compiled(case["chunk_size"], *args)
  assert_gradients_close(
    found, compiled(None, *args), TOLERANCES[case["dtype"]]
  )


def test_another_axis_of_time(x64):
  """Fails if chunks are cut from the batch instead of the sequence."""
  params, x, targets, weights = make("float64")
  parts = jax.tree.map(lambda x: jnp.swapaxes(x, 0, 1), (x, targets, weights))
  seen = []

  def one(params, chunk):
    seen.append(chunk[0].shape)
    return loss(params, chunk)

  @jax.jit
  def by_chunks(params, parts):
    return (
      chunked_sum(one, params, parts, chunk_size=4, axis=0),
      chunked_map(mlp, params, parts[0], chunk_size=4, axis=0),
    )

  found, y = by_chunks(params, parts)
  assert {shape[0] for shape in seen} == {1, 4}
  (_, right), _ = compiled(None, params, x, targets, weights)
  right_sums = jax.jit(loss)(params, (x, targets, weights))
  assert_gradients_close(found, right_sums, 1e-12)
  assert_gradients_close(y, jnp.swapaxes(right[0], 0, 1), 1e-12)


@pytest.mark.parametrize("kernel", [chunked_map, chunked_sum])
@pytest.mark.parametrize("second", [jax.grad, jax.jacfwd])
def test_second_derivative_is_refused(kernel, second):
  """Fails if the message names another function, or if there is none."""

  def fn(w, chunk):
    y = jnp.sin(w * chunk)
    return y if kernel is chunked_map else y.sum()

  def slope(w):
    return jax.grad(
      lambda w: kernel(fn, w, jnp.ones((2, 5)), chunk_size=2).sum()
    )(w)

  message = (
    f"^{kernel.__name__} has first derivatives only; for a second derivative "
    r"call fn\(params, xs\) without chunks"
  )
  with pytest.raises(ValueError, match=message):
    jax.eval_shape(second(slope), 1.0)


@pytest.mark.parametrize("kernel", [chunked_map, chunked_sum])
@pytest.mark.parametrize(
  ("shape", "chunk_size", "message"),
  [
    ((2, 0), 2, "^xs must have at least 1 token along axis 1, got none: skip"),
    ((2, 5), 0, "^chunk_size must be a positive integer, got 0$"),
    ((2,), 2, r"^xs must have a time axis 1, got shape \(2,\)$"),
  ],
)
def test_wrong_arguments_are_refused(kernel, shape, chunk_size, message):
  """Fails if the message is about arguments that the user did not pass."""
  with pytest.raises(ValueError, match=message):
    kernel(lambda _, x: x, (), jnp.ones(shape), chunk_size=chunk_size)


@pytest.mark.parametrize("chunk_size", [2, 5])
def test_wrong_result_is_refused(chunk_size):
  """Fails if a scalar is taken as its own sum, or the error names a step."""
  xs = jnp.ones((2, 5))
  message = (
    r"the result\['a'\] of fn must have a time axis 1, got shape \(\); for a "
    "sum over tokens use chunked_sum$"
  )
  with pytest.raises(ValueError, match=message):
    chunked_map(lambda _, x: {"a": x.sum()}, (), xs, chunk_size=chunk_size)
  message = "the result of fn must have the [0-9]+ tokens of the chunk along"
  with pytest.raises(ValueError, match=message):
    chunked_map(
      lambda _, x: x.mean(1, keepdims=True), (), xs, chunk_size=chunk_size
    )
  message = r"the result of fn must be a scalar, got shape \(2,\); sum it over"
  with pytest.raises(ValueError, match=message):
    chunked_sum(lambda _, x: x.sum(1), (), xs, chunk_size=chunk_size)


def activation_bytes(chunk_size, length):
  """Temporary bytes of a gradient with 50,000 logits per token."""
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


def test_only_logits_of_one_chunk_are_held():
  """Fails if a large vocabulary needs gigabytes for a long sequence."""
  short, long = (activation_bytes(64, length) for length in (1024, 8192))
  assert short <= 8 * 64 * 50_000 * 4
  # The tokens themselves, and their cotangents.
  assert long - short <= 4 * (8192 - 1024) * 64 * 4
