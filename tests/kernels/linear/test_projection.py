"""Projections of FAVOR+: their rows, their features and their range."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from slim.kernels import (
  positive_random_features,
  positive_random_query_features,
  sample_projection,
)
from tests.helpers import assert_gradients_close
from tests.kernels.linear.favor import KEY, attend, of_length, sample


def test_orthogonal_rows():
  """Fails if a block is not orthogonal, or if rows or keys repeat a vector."""
  w = sample(KEY, 20, 8)
  assert w.dtype == jnp.float32
  assert not np.array_equal(w, sample(jax.random.key(1), 20, 8))
  w = np.asarray(w, np.float64)
  lengths = np.linalg.norm(w, axis=1)
  directions = w / lengths[:, None]
  for block in (directions[:8], directions[8:16], directions[16:]):
    np.testing.assert_allclose(
      block @ block.T, np.eye(len(block)), atol=1e-6, rtol=0
    )
  assert np.abs(directions[:8] @ directions[8:16].T).max() < 0.999
  assert lengths.std() > 0.3


@pytest.mark.parametrize("orthogonal", [False, True])
def test_rows_are_standard_normal(orthogonal):
  """Fails if the signs that QR chooses bias the directions."""
  keys = jax.random.split(KEY, 2000)
  draw = functools.partial(
    sample_projection, num_features=3, head_dim=3, orthogonal=orthogonal
  )
  w = np.asarray(jax.jit(jax.vmap(draw))(keys), np.float64)
  # 5 standard errors of 2000 samples.
  np.testing.assert_allclose(w.mean(0), 0, atol=5 / np.sqrt(2000))
  np.testing.assert_allclose(w.var(0), 1, atol=5 * np.sqrt(2 / 2000))


def test_factor_of_a_query_cancels(x64):
  """Fails if its gradient includes that of the maximum."""
  projection = sample(KEY, 12, 8)
  q, k, v = of_length(3, 3, 1, 20, 2, 8)

  def gradient(query_features):
    def loss(q):
      y = attend(
        q, k, v, projection, dtype="float64", query_features=query_features
      )
      return jnp.sin(y).sum()

    return jax.jit(jax.grad(loss))(jnp.asarray(q, "float64"))

  assert_gradients_close(
    gradient(positive_random_query_features),
    gradient(positive_random_features),
    1e-12,
  )


def test_no_key_overflows():
  """Fails if one key along a row of the projection makes all sums infinite."""

  @jax.jit
  def sums_of_keys(projection):
    keys = projection * 64**0.25  # The largest exponents.
    return 2.0**20 * positive_random_features(keys, projection).sum(0)

  assert np.isfinite(sums_of_keys(sample(KEY, 256, 64))).all()


def test_no_query_overflows():
  """Fails if long queries, which nothing bounds, become NaN."""
  queries, projection = of_length(1e4, 5, 64), sample(KEY, 256, 64)
  features = jax.jit(positive_random_query_features)(queries, projection)
  np.testing.assert_allclose(np.asarray(features).max(-1), 1 / 16, rtol=1e-6)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32])
@pytest.mark.parametrize(
  "features", [positive_random_features, positive_random_query_features]
)
def test_tokens_are_mapped_alone_and_keep_their_dtype(features, dtype):
  """Fails if the value depends on the chunks, or if the dtype changes."""

  @jax.jit
  def whole_and_alone(x, projection):
    alone = [features(x[:, t : t + 1], projection) for t in range(x.shape[1])]
    return features(x, projection), jnp.concatenate(alone, 1)

  whole, alone = whole_and_alone(
    jnp.asarray(of_length(3, 2, 5, 1, 8), dtype), sample(KEY, 12, 8)
  )
  assert whole.dtype == dtype
  assert whole.shape == (2, 5, 1, 12)
  whole, alone = (np.asarray(x, np.float32) for x in (whole, alone))
  assert whole.min() > 0
  # One rounding: matrix products of other shapes sum in another order.
  np.testing.assert_allclose(
    whole,
    alone,
    rtol=2 * jnp.finfo(dtype).eps if dtype == jnp.bfloat16 else 1e-6,
  )


@pytest.mark.parametrize(
  ("sizes", "message"),
  [
    ((0, 8), "num_features must be a positive integer, got 0"),
    ((4, 2.5), "head_dim must be a positive integer, got 2.5"),
  ],
)
def test_wrong_sizes_are_refused(sizes, message):
  """Fails if the error is about the shape of random numbers."""
  with pytest.raises(ValueError, match=message):
    sample_projection(KEY, *sizes)


@pytest.mark.parametrize(
  "features", [positive_random_features, positive_random_query_features]
)
def test_numpy_arrays_and_empty_batch(features):
  """Fails if float64 warns, integers are cut, or the last batch fails."""
  x, projection = of_length(3, 5, 8), np.float64(sample(KEY, 12, 8))
  # Closed over, as jax.jit narrows its arguments itself.
  found, right, none = jax.jit(
    lambda: [
      features(np.float64(x), projection),
      features(x, np.float32(projection)),
      features(np.zeros((0, 8)), projection),
    ]
  )()
  assert found.dtype == jnp.float32
  np.testing.assert_array_equal(found, right)
  assert none.shape == (0, 12)
  with pytest.raises(ValueError, match="x must be floating-point, got int"):
    features(np.ones((5, 8), int), projection)
  with pytest.raises(ValueError, match=r"projection must have .*got \(8,\)"):
    features(np.ones((5, 8)), projection[0])


@pytest.mark.parametrize(
  "features", [positive_random_features, positive_random_query_features]
)
def test_projection_of_another_width_is_refused(features):
  """Fails if the error comes from inside an einsum."""
  projection = sample(KEY, 12, 8)
  message = r"x must have shape \[..., K=8\] like the projection, got \(2, 7\)"
  with pytest.raises(ValueError, match=message):
    features(jnp.ones((2, 7)), projection)
