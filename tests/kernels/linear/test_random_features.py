"""FAVOR+: an unbiased estimate of softmax attention, exact to rounding."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from slim.kernels import (
  PrefixSums,
  chunked_linear_attention,
  init_prefix_sums,
  positive_random_features,
  positive_random_query_features,
  sample_projection,
)
from tests.helpers import assert_gradients_close, pairwise

KEY = jax.random.key(0)


def of_length(length, *shape):
  """Random vectors of a given length, in float32."""
  x = np.random.default_rng(0).normal(size=shape)
  x *= length / np.linalg.norm(x, axis=-1, keepdims=True)
  return x.astype(np.float32)


def attend(
  q, k, v, projection, *, dtype, query_features=positive_random_query_features
):
  """Attention with random features, compiled, all in one dtype."""
  q, k, v = (jnp.asarray(x, dtype) for x in (q, k, v))
  state = init_prefix_sums(
    q.shape[0], q.shape[2], len(projection), v.shape[-1], dtype=dtype
  )

  @jax.jit
  def run(q, k, v):
    features = query_features(q, projection)
    keys = positive_random_features(k, projection)
    return chunked_linear_attention(features, keys, v, state, eps=0.0)[0]

  return run(q, k, v)


@pytest.mark.parametrize(
  ("head_dim", "lengths"),
  [
    (64, "0 to 9"),
    (128, "9"),
    pytest.param(64, "9", marks=pytest.mark.slow),
    pytest.param(128, "0 to 9", marks=pytest.mark.slow),
  ],
)
def test_float32_is_exact(head_dim, lengths):
  """Fails if the exponential amplifies an error of the exponent."""
  projection = sample_projection(KEY, 2 * head_dim, head_dim)
  q, k, v = of_length(9, 3, 1, 256, 2, head_dim)
  if lengths != "9":
    k *= np.random.default_rng(1).random((1, 256, 2, 1), np.float32)
  found = attend(q, k, v, projection, dtype="float32")
  with jax.enable_x64(True):
    right = np.asarray(attend(q, k, v, projection, dtype="float64"))
  assert np.linalg.norm(found - right) <= 1e-5 * np.linalg.norm(right)


def by_equation(q, k, v, kv, z, projection):
  """The equation of the features, and attention over all pairs of tokens."""

  def features(x):
    x = x / x.shape[-1] ** 0.25
    square = (x**2).sum(-1, keepdims=True)
    return jnp.exp(x @ projection.T - square / 2) / len(projection) ** 0.5

  q, k = features(q), features(k)
  causal = np.tri(q.shape[1], dtype=bool)
  scores = jnp.where(causal, jnp.einsum("bshm,bthm->bhst", q, k), 0)
  num = jnp.einsum("bhst,bthv->bshv", scores, v)
  num += jnp.einsum("bshm,bhmv->bshv", q, kv)
  den = jnp.moveaxis(scores.sum(-1), 1, 2) + jnp.einsum("bshm,bhm->bsh", q, z)
  return num / den[..., None]


def by_kernels(q, k, v, kv, z, projection):
  """The same by the functions under test."""
  y, _ = chunked_linear_attention(
    positive_random_query_features(q, projection),
    positive_random_features(k, projection),
    v,
    PrefixSums(kv, z),
    block_size=4,
    eps=0.0,
  )
  return y


@pytest.mark.parametrize(
  "case",
  pairwise(
    length=[1, 7, 13], dtype=["float64", "float32"], orthogonal=[False, True]
  ),
)
def test_features_compute_the_equation(x64, case):
  """Fails if values or gradients are wrong, of keys or of the state."""
  length, dtype, orthogonal = case.values()
  tol = {"float64": 1e-12, "float32": 1e-5}[dtype]
  projection = sample_projection(KEY, 20, 8, orthogonal=orthogonal)
  q, k, v = of_length(3, 3, 2, length, 3, 8)
  random = np.random.default_rng(1)
  state = (
    random.uniform(0.1, 1, (2, 3, 20, 8)),
    random.uniform(0.1, 1, (2, 3, 20)),
  )
  y_ct = random.normal(size=v.shape)

  def value_and_gradients(attend, dtype):
    args = [jnp.asarray(x, dtype) for x in (q, k, v, *state)]
    run = jax.jit(functools.partial(attend, projection=projection))
    y, vjp = jax.vjp(run, *args)
    return y, vjp(jnp.asarray(y_ct, dtype))

  assert_gradients_close(
    value_and_gradients(by_kernels, dtype),
    value_and_gradients(by_equation, "float64"),
    tol,
  )


def softmax_attention(q, k, v):
  """Causal attention of one head, [T, K] and [T, V], in NumPy."""
  scores = q @ k.T / np.sqrt(q.shape[-1])
  scores = np.where(np.tri(len(q), dtype=bool), np.exp(scores), 0)
  return scores @ v / scores.sum(-1, keepdims=True)


def test_more_features_are_nearer_to_softmax():
  """Fails if the features estimate another function than softmax."""
  q, k, v = of_length(2, 3, 100, 16)
  right = softmax_attention(q, k, v)
  errors = []
  for num_features in (32, 2048):
    projection = sample_projection(KEY, num_features, 16)
    q1, k1, v1 = (x[None, :, None] for x in (q, k, v))
    found = attend(q1, k1, v1, projection, dtype="float32")[0, :, 0]
    errors.append(np.linalg.norm(found - right) / np.linalg.norm(right))
  # The error falls as 1 / √M, by 8 here.
  assert errors[1] <= min(0.05, errors[0] / 5)


@functools.cache
def estimates(orthogonal):
  """φ(q) · φ(k) over exp(q · k / √K), for 20,000 projections."""
  # Longer vectors have rare, large estimates, which this sample would miss.
  q, k = of_length(1.5, 2, 8)

  def estimate(key):
    projection = sample_projection(key, 8, 8, orthogonal=orthogonal)
    q_features, k_features = (
      positive_random_features(jnp.asarray(x), projection) for x in (q, k)
    )
    return q_features @ k_features

  found = jax.jit(jax.vmap(estimate))(jax.random.split(KEY, 20_000))
  return np.asarray(found, np.float64) / np.exp(q @ k / np.sqrt(8))


@pytest.mark.parametrize("orthogonal", [False, True])
def test_estimate_is_unbiased(orthogonal):
  """Fails if lengths or directions have another distribution."""
  found = estimates(orthogonal)
  assert abs(found.mean() - 1) <= 3 * found.std() / np.sqrt(len(found))


def test_orthogonal_features_have_less_variance():
  """Fails if the setting does not reduce the variance."""
  assert estimates(True).std() <= 0.95 * estimates(False).std()


def test_orthogonal_rows():
  """Fails if a block is not orthogonal, or if rows or keys repeat a vector."""
  w = sample_projection(KEY, 20, 8)
  assert w.dtype == jnp.float32
  assert (w != sample_projection(jax.random.key(1), 20, 8)).any()
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
  sample = functools.partial(
    sample_projection, num_features=3, head_dim=3, orthogonal=orthogonal
  )
  w = np.asarray(jax.jit(jax.vmap(sample))(keys), np.float64)
  # 5 standard errors of 2000 samples.
  np.testing.assert_allclose(w.mean(0), 0, atol=5 / np.sqrt(2000))
  np.testing.assert_allclose(w.var(0), 1, atol=5 * np.sqrt(2 / 2000))


def test_factor_of_a_query_cancels(x64):
  """Fails if its gradient includes that of the maximum."""
  projection = sample_projection(KEY, 12, 8)
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
  projection = sample_projection(KEY, 256, 64)
  keys = projection * 64**0.25  # The largest exponents.
  sums = 2.0**20 * positive_random_features(keys, projection).sum(0)
  assert np.isfinite(sums).all()


def test_no_query_overflows():
  """Fails if long queries, which nothing bounds, become NaN."""
  projection = sample_projection(KEY, 256, 64)
  features = positive_random_query_features(of_length(1e4, 5, 64), projection)
  np.testing.assert_allclose(features.max(-1), 1 / 16, rtol=1e-6)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32])
@pytest.mark.parametrize(
  "features", [positive_random_features, positive_random_query_features]
)
def test_tokens_are_mapped_alone_and_keep_their_dtype(features, dtype):
  """Fails if the value depends on the chunks, or if the dtype changes."""
  projection = sample_projection(KEY, 12, 8)
  x = jnp.asarray(of_length(3, 2, 5, 1, 8), dtype)
  whole = features(x, projection)
  assert whole.dtype == dtype
  assert whole.shape == (2, 5, 1, 12)
  assert whole.min() > 0
  alone = [features(x[:, t : t + 1], projection) for t in range(x.shape[1])]
  # One rounding: matrix products of other shapes sum in another order.
  np.testing.assert_allclose(
    np.asarray(whole, np.float32),
    np.asarray(jnp.concatenate(alone, 1), np.float32),
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
  projection = np.float64(sample_projection(KEY, 12, 8))
  found = features(np.float64(of_length(3, 5, 8)), projection)
  assert found.dtype == jnp.float32
  right = features(of_length(3, 5, 8), projection.astype(np.float32))
  np.testing.assert_array_equal(found, right)
  assert features(np.zeros((0, 8)), projection).shape == (0, 12)
  with pytest.raises(ValueError, match="x must be floating-point, got int"):
    features(np.ones((5, 8), int), projection)
  with pytest.raises(ValueError, match=r"projection must have .*got \(8,\)"):
    features(np.ones((5, 8)), projection[0])


@pytest.mark.parametrize(
  "features", [positive_random_features, positive_random_query_features]
)
def test_projection_of_another_width_is_refused(features):
  """Fails if the error comes from inside an einsum."""
  projection = sample_projection(KEY, 12, 8)
  message = r"x must have shape \[..., K=8\] like the projection, got \(2, 7\)"
  with pytest.raises(ValueError, match=message):
    features(jnp.ones((2, 7)), projection)
