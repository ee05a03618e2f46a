"""The sums of the loss, against NumPy in float64."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from slim.training.losses import cross_entropy_sums

B, T, VOCAB_SIZE = 2, 7, 13

sums_of = jax.jit(cross_entropy_sums)


@pytest.fixture
def logits():
  """Logits of moderate size, so that no token is certain."""
  return 3 * jax.random.normal(jax.random.key(0), (B, T, VOCAB_SIZE))


@pytest.fixture
def targets(logits):
  """Targets, some of them predicted correctly."""
  random = np.random.default_rng(0)
  targets = random.integers(0, VOCAB_SIZE, (B, T), dtype=np.int32)
  targets[:, ::3] = np.argmax(logits, -1)[:, ::3]
  return jnp.asarray(targets)


@pytest.fixture
def weights():
  """Fractional weights, some of them zero."""
  weights = np.random.default_rng(1).random((B, T), dtype=np.float32)
  weights[:, 1::3] = 0
  return jnp.asarray(weights)


def plain_sums(logits, targets, weights):
  """The same sums, token by token."""
  nll = correct = 0.0
  logits = np.asarray(logits, np.float64)
  for b, t in np.ndindex(*targets.shape):
    rest = logits[b, t] - logits[b, t, targets[b, t]]
    log_sum = rest.max() + np.log(np.exp(rest - rest.max()).sum())
    nll += float(weights[b, t]) * log_sum
    correct += float(weights[b, t]) * (logits[b, t].argmax() == targets[b, t])
  return nll, correct, np.asarray(weights, np.float64).sum()


def test_sums_are_those_of_numpy(logits, targets, weights):
  """Fails if any reported loss or accuracy is wrong."""
  found = sums_of(logits, targets, weights)
  expected = plain_sums(logits, targets, weights)
  assert 0 < expected[1] < expected[2]
  np.testing.assert_allclose(found, expected, rtol=1e-6)
  assert {x.shape for x in found} == {()}


def test_weight_of_zero_hides_a_token(logits, targets, weights):
  """Fails if tokens outside the copied half are trained on."""
  other = jnp.where(weights == 0, (targets + 1) % VOCAB_SIZE, targets)
  noise = jnp.where(weights == 0, 7.0, 0)[..., None] * logits
  found = sums_of(logits + noise, other, weights)
  assert found == sums_of(logits, targets, weights)
  assert sums_of(logits, targets, 0 * weights) == (0, 0, 0)


value_and_grad = jax.jit(
  jax.value_and_grad(lambda *batch: cross_entropy_sums(*batch).nll)
)


@pytest.mark.parametrize("target", [-100, -1, VOCAB_SIZE, 2**31 - 1])
@pytest.mark.parametrize("logit", [1.0, np.nan, np.inf, -np.inf])
def test_a_token_of_weight_zero_is_ignored(
  logits, targets, weights, target, logit
):
  """Fails if one padded token makes the loss of the batch NaN."""
  hidden = weights == 0
  right = value_and_grad(logits, targets, weights)
  found = value_and_grad(
    jnp.where(hidden[..., None], logit, logits),
    jnp.where(hidden, target, targets),
    weights,
  )
  chex.assert_trees_all_equal(found, right)


@pytest.mark.parametrize("target", [-100, -1, VOCAB_SIZE])
def test_a_token_beyond_the_vocabulary_is_no_other_token(
  logits, targets, weights, target
):
  """Fails if negative targets count from the end of the vocabulary."""
  found = sums_of(logits, targets.at[0, 0].set(target), weights)
  assert np.isnan(found.nll)
  assert np.isfinite(found.correct)


@pytest.mark.parametrize("scale", [1e4, -1e4])
def test_large_logits_are_finite(logits, targets, weights, scale):
  """Fails if a confident model has an infinite loss or gradient."""
  value, gradient = value_and_grad(scale * logits, targets, weights)
  expected = plain_sums(scale * logits, targets, weights)[0]
  np.testing.assert_allclose(value, expected, rtol=1e-6)
  assert np.isfinite(gradient).all()


def test_weights_are_constants(logits, targets, weights):
  """Fails if a model can lower the loss through its weights."""
  gradient = jax.grad(
    lambda weights: cross_entropy_sums(logits, targets, weights).nll
  )
  np.testing.assert_array_equal(jax.jit(gradient)(weights), np.zeros((B, T)))


def test_gradient_is_that_of_the_softmax(logits, targets, weights):
  """Fails if the gradient is not w (softmax - onehot)."""
  _, gradient = value_and_grad(logits, targets, weights)
  onehot = jax.nn.one_hot(targets, VOCAB_SIZE)
  expected = weights[..., None] * (jax.nn.softmax(logits) - onehot)
  np.testing.assert_allclose(gradient, expected, atol=1e-6)


def test_bfloat16_logits_are_summed_in_float32():
  """Fails if a sum stops growing at 256 tokens, as in bfloat16."""
  logits = jnp.zeros((1, 5000, 4), jnp.bfloat16)
  targets, weights = jnp.zeros((1, 5000), jnp.int32), jnp.ones((1, 5000))
  found = sums_of(logits, targets, weights)
  assert {x.dtype for x in found} == {jnp.dtype(jnp.float32)}
  expected = (5000 * np.log(4), 5000, 5000)
  np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_float64_logits_are_summed_in_float64(x64, targets, weights):
  """Fails if comparisons to 1e-12 are limited by the loss."""
  logits = jax.random.normal(jax.random.key(0), (B, T, VOCAB_SIZE))
  assert logits.dtype == jnp.float64
  found = sums_of(logits, targets, weights)
  expected = plain_sums(logits, targets, weights)
  np.testing.assert_allclose(found, expected, rtol=1e-14)


def test_a_forgotten_axis_is_refused():
  """Fails if weights [T] broadcast silently over the batch."""
  logits, tokens = jnp.zeros((2, 3, 5)), jnp.zeros((2, 3), jnp.int32)
  with pytest.raises(AssertionError, match="shape"):
    cross_entropy_sums(logits, tokens, jnp.ones(3))
  with pytest.raises(AssertionError, match="shape"):
    cross_entropy_sums(logits, tokens[0], jnp.ones(3))
