"""FAVOR+ estimates softmax attention without bias."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from slim.kernels import (
  PrefixSums,
  chunked_linear_attention,
  positive_random_features,
  positive_random_query_features,
  sample_projection,
)
from tests.helpers import assert_gradients_close, pairwise
from tests.kernels.linear.favor import KEY, attend, of_length, sample


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
  projection = sample(KEY, 2 * head_dim, head_dim)
  q, k, v = of_length(9, 3, 1, 256, 2, head_dim)
  if lengths != "9":
    k *= np.random.default_rng(1).random((1, 256, 2, 1), np.float32)
  found = np.asarray(attend(q, k, v, projection, dtype="float32"))
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


@functools.partial(jax.jit, static_argnums=0)
def value_and_gradients(form, args, projection, y_ct):
  """Computes y, and the gradients of all arguments but the projection."""
  y, vjp = jax.vjp(functools.partial(form, projection=projection), *args)
  return y, vjp(y_ct)


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
  projection = sample(KEY, 20, 8, orthogonal=orthogonal)
  q, k, v = of_length(3, 3, 2, length, 3, 8)
  random = np.random.default_rng(1)
  state = (
    random.uniform(0.1, 1, (2, 3, 20, 8)),
    random.uniform(0.1, 1, (2, 3, 20)),
  )
  y_ct = random.normal(size=v.shape)

  def run(form, dtype):
    *args, ct = (x.astype(dtype) for x in (q, k, v, *state, y_ct))
    return value_and_gradients(form, args, projection, ct)

  assert_gradients_close(
    run(by_kernels, dtype),
    run(by_equation, "float64"),
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
    projection = sample(KEY, num_features, 16)
    q1, k1, v1 = (x[None, :, None] for x in (q, k, v))
    found = np.asarray(attend(q1, k1, v1, projection, dtype="float32"))[0, :, 0]
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
