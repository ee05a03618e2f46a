"""The distribution that tokens are drawn from, against its definition."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from slim.generate import Sampling, filter_logits, sample
from slim.kernels.support.random_bits import fold_in

LOGITS = np.random.default_rng(0).normal(0, 2, 12)
filtered_of = jax.jit(filter_logits)
GRID = [
  Sampling(*numbers)
  for numbers in itertools.product(
    (0.5, 1.0, 3.0), (0, 1, 4, 30), (0.3, 0.9, 1.0), (0.0, 0.2, 1.0)
  )
]


def distribution(logits, sampling):
  """The definition: one step after the other, on probabilities."""
  p = np.exp(logits / sampling.temperature)
  order = np.argsort(-p, kind="stable")

  def keep(indices):
    kept = np.zeros_like(p)
    kept[indices] = p[indices]
    return kept / kept.sum()

  p = keep(order[: sampling.top_k or len(p)])
  enough = next(
    n
    for n in range(1, len(p) + 1)
    if n == len(p) or p[order[:n]].sum() >= sampling.top_p - 1e-12
  )
  p = keep(order[:enough])
  return keep(np.flatnonzero(p >= sampling.min_p * p.max()))


def test_the_distribution_is_that_of_the_definition(x64):
  """Fails if a step is left out, or sees what another has dropped."""
  settings = Sampling(*map(jnp.asarray, zip(*GRID, strict=True)))
  filtered = jax.jit(jax.vmap(filter_logits, (None, 0)))(
    jnp.asarray(LOGITS), settings
  )
  found = jax.nn.softmax(filtered, -1)
  right = [distribution(LOGITS, x) for x in GRID]
  np.testing.assert_allclose(found, right, atol=1e-12)


def test_equal_logits_count_in_their_order(x64):
  """Fails if top-k keeps more tokens than k, or none."""
  filtered = filtered_of(jnp.zeros(4), Sampling(top_k=2, min_p=1.0))
  np.testing.assert_array_equal(filtered, [0, 0, -np.inf, -np.inf])
  filtered = filtered_of(jnp.zeros(4, jnp.float32), Sampling(top_p=1e-50))
  np.testing.assert_array_equal(filtered, [0, -np.inf, -np.inf, -np.inf])


def test_extreme_numbers_keep_what_they_should():
  """Fails if rounding drops a token that nothing asks to drop, or all."""
  filtered = filtered_of(jnp.array([30.0, 0.0, 0.0]), Sampling())
  np.testing.assert_array_equal(filtered, [0, -30, -30])
  filtered = filtered_of(jnp.array([-900.0, -500]), Sampling(1e-37))
  np.testing.assert_array_equal(filtered, [-jnp.inf, 0])


def test_tokens_are_drawn_with_their_probabilities():
  """Fails if the drawn distribution is another one, or keys are ignored."""
  sampling = Sampling(1.5, 6, 0.95, 0.0)
  count = 20_000
  logits = jnp.broadcast_to(jnp.float32(LOGITS), (count, 12))
  keys = fold_in(jax.random.key(0), jnp.arange(count))
  drawn = jax.jit(sample)(keys, logits, sampling)
  right = distribution(LOGITS, sampling)
  found = np.bincount(drawn, minlength=12) / count
  deviation = np.sqrt(right * (1 - right) / count)
  assert np.all(np.abs(found - right) <= 5 * deviation), (found, right)


def test_at_temperature_0_the_most_probable_token_is_drawn():
  """Fails if a temperature of 0 divides by it."""
  drawn = jax.jit(sample)(
    fold_in(jax.random.key(0), jnp.arange(50)),
    jnp.broadcast_to(jnp.float32(LOGITS), (50, 12)),
    Sampling(0.0),
  )
  assert np.all(drawn == LOGITS.argmax())


@pytest.mark.parametrize(
  ("numbers", "message"),
  [
    (
      {"temperature": -0.1},
      "temperature must be finite and >= 0, got -0.1",
    ),
    (
      {"temperature": math.nan},
      "temperature must be finite and >= 0, got nan",
    ),
    (
      {"temperature": math.inf},
      "temperature must be finite and >= 0, got inf",
    ),
    ({"top_k": 2**31}, "top_k must be in .* got 2147483648"),
    ({"top_k": -1}, "top_k must be in .*2147483648.* got -1"),
    ({"top_p": 0.0}, r"top_p must be in \(0, 1\], got 0.0"),
    ({"top_p": 1.5}, r"top_p must be in \(0, 1\], got 1.5"),
    ({"min_p": 2}, r"min_p must be in \[0, 1\], got 2"),
  ],
)
def test_numbers_out_of_range_are_refused(numbers, message):
  """Fails if nonsense is drawn from."""
  with pytest.raises(ValueError, match=message):
    Sampling(**numbers).check()
