"""Gradient and update steps, on a model that can be checked by hand."""

import functools
import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from slim.kernels.support.random_bits import fold_in
from slim.training import steps
from slim.training.compiled import compile_gradient_step, compile_update_step
from slim.types import Batch, Sums, TrainState

B, T, VOCAB_SIZE = 4, 6, 5


def value_and_grad(params, batch, keys=None):
  """Differentiates the loss of a table of logits, one row per token."""

  def nll(params):
    logits = params["table"][batch.inputs]
    if keys is not None:
      keep = jax.vmap(lambda k: jax.random.bernoulli(k, 0.5, logits.shape[1:]))
      logits = logits * keep(keys)
    losses = optax.softmax_cross_entropy_with_integer_labels(
      logits, batch.targets
    )
    weight = batch.weights.sum()
    total = (losses * batch.weights).sum()
    return total, Sums(total, jnp.zeros(()), weight)

  (_, sums), gradients = jax.value_and_grad(nll, has_aux=True)(params)
  return sums, gradients


def sums_of(weight, nll=1.0):
  """Sums over tokens of this weight."""
  return Sums(jnp.float32(nll), jnp.float32(0), jnp.float32(weight))


update_with_sgd = jax.jit(steps.make_update_step(optax.sgd(1.0)))


@functools.cache
def update_with_adam(skip_above):
  """An update, compiled once for each bound."""
  return jax.jit(steps.make_update_step(optax.adam(0.1), skip_above))


@pytest.fixture
def params():
  """A table of logits."""
  return {"table": jax.random.normal(jax.random.key(1), (VOCAB_SIZE,) * 2)}


@pytest.fixture
def batch():
  """Tokens with uneven weights, so that a mean of means is wrong."""
  random = np.random.default_rng(0)
  tokens = random.integers(0, VOCAB_SIZE, (2, B, T), dtype=np.int32)
  weights = np.arange(B * T, dtype=np.float32).reshape(B, T)
  return Batch(*tokens, weights)


@pytest.mark.parametrize("key", [None, jax.random.key(3)])
@pytest.mark.parametrize("parts", [2, 4])
def test_accumulation_changes_nothing(params, batch, parts, key):
  """Fails if parts of a batch are averaged twice, or get other masks."""
  make = steps.make_gradient_step
  whole = make(value_and_grad, accumulation_steps=1, key=key)
  cut = make(value_and_grad, accumulation_steps=parts, key=key)
  a, b = (jax.jit(step)(params, batch, 7) for step in (whole, cut))
  chex.assert_trees_all_close(a, b, rtol=1e-5)


@pytest.mark.parametrize("impl", [None, "unsafe_rbg"])
def test_dropout_is_a_function_of_step_and_row(params, batch, impl):
  """Fails if a resumed run draws other masks."""
  seen = []

  def spy(params, batch, keys):
    seen.append(jax.random.key_data(keys))
    return value_and_grad(params, batch, keys)

  key = jax.random.key(3, impl=impl)
  step = steps.make_gradient_step(spy, accumulation_steps=1, key=key)
  step(params, batch, 7)
  expected = [
    jax.random.key_data(fold_in(fold_in(key, 7), row)) for row in range(B)
  ]
  np.testing.assert_array_equal(seen[0], expected)


def test_update_divides_by_the_weight_once(params):
  """Fails if the learning rate depends on the number of tokens."""
  gradients = {"table": jnp.ones((VOCAB_SIZE,) * 2)}
  state = TrainState(jnp.int32(4), params, optax.sgd(1.0).init(params))
  state, norm = update_with_sgd(state, gradients, sums_of(10))
  np.testing.assert_allclose(state.params["table"], params["table"] - 0.1)
  np.testing.assert_allclose(norm, 0.1 * VOCAB_SIZE, rtol=1e-6)
  assert state.step == 5


def test_a_batch_without_weight_changes_no_parameter(params):
  """Fails if a batch without weight makes all parameters NaN."""
  gradients = {"table": jnp.zeros((VOCAB_SIZE,) * 2)}
  state = TrainState(jnp.int32(4), params, optax.sgd(1.0).init(params))
  state, norm = update_with_sgd(state, gradients, sums_of(0))
  np.testing.assert_array_equal(state.params["table"], params["table"])
  assert norm == 0


@pytest.mark.parametrize(
  ("nll", "value", "skip_above", "skipped"),
  [
    (1.0, 0.4, 2.1, False),  # The norm is 5 times the value.
    (1.0, 0.4, 1.9, True),
    (1.0, 0.4, math.inf, False),
    (math.nan, 0.4, math.inf, True),
    (math.inf, 0.4, math.inf, True),
    (1.0, math.nan, math.inf, True),
    (1.0, math.inf, math.inf, True),
  ],
)
def test_a_bad_update_is_skipped(params, nll, value, skip_above, skipped):
  """Fails if a spike reaches the weights or the moments of the optimizer."""
  gradients = {"table": jnp.full((VOCAB_SIZE,) * 2, value)}
  state = steps.init_train_state(params, optax.adam(0.1))
  update = update_with_adam(skip_above)
  after, norm = update(state, gradients, sums_of(1, nll))
  assert after.step == 1
  assert bool(steps.is_usable(nll, float(norm), skip_above)) != skipped
  same = jax.tree.map(jnp.array_equal, after[1:], state[1:])
  assert all(jax.tree.leaves(same)) == skipped


def test_compiled_programs_train(params, batch):
  """Fails if the programs of a run are not the ones tested."""
  optimizer = optax.adam(0.1)
  state = steps.init_train_state(params, optimizer)
  gradient_step, activation_bytes = compile_gradient_step(
    steps.make_gradient_step(value_and_grad, accumulation_steps=1, key=None),
    state.params,
    batch,
  )
  update_step = compile_update_step(steps.make_update_step(optimizer), state)
  # The new state is written over the old one: there is no second copy.
  state_bytes = sum(x.nbytes for x in jax.tree.leaves(state))
  memory = update_step.memory_analysis()
  assert memory.alias_size_in_bytes == state_bytes
  state = jax.tree.map(jnp.copy, state)
  losses = []
  for step in range(5):
    sums, gradients = gradient_step(state.params, batch, np.int32(step))
    old = state
    state, _ = update_step(state, gradients, sums)
    losses.append(float(sums.nll))
    assert old.params["table"].is_deleted()  # Its memory holds the new state.
  assert losses == sorted(losses, reverse=True)
  assert int(state.step) == 5
  assert activation_bytes > 0


def test_activation_bytes_are_those_of_the_temporaries(params, batch):
  """Fails if a report counts arguments or results."""

  def wasteful(params, batch, keys=None):
    square = jnp.outer(*[batch.weights.ravel()] * 2)
    large = jnp.sin(jnp.tile(square, (10, 10)))  # 240² values.
    sums, gradients = value_and_grad(params, batch)
    # Sorting needs the whole array in memory.
    return sums._replace(correct=jnp.sort(large, 0)[3, 3]), gradients

  def measure(function):
    step = steps.make_gradient_step(function, accumulation_steps=1, key=None)
    return compile_gradient_step(step, params, batch)[1]

  added = measure(wasteful) - measure(value_and_grad)
  assert 0.9 <= added / (240**2 * 4) <= 4


def test_no_rounding_is_left_out():
  """Fails if "rewind" subtracts other bfloat16 updates than were added."""

  def add(a, b, step):
    return (a + b).astype(jnp.float32)

  a, b = jnp.bfloat16(1), jnp.bfloat16(2**-8)
  compiled, _ = compile_gradient_step(add, a, b)
  assert compiled(a, b, np.int32(0)) == 1
