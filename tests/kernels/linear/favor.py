"""Random vectors and attention for tests of FAVOR+."""

import jax
import jax.numpy as jnp
import numpy as np

from slim.kernels import (
  chunked_linear_attention,
  init_prefix_sums,
  positive_random_features,
  positive_random_query_features,
  sample_projection,
)

KEY = jax.random.key(0)
# One program, and not one for each of its operations.
sample = jax.jit(
  sample_projection, static_argnames=("num_features", "head_dim", "orthogonal")
)


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

  @jax.jit
  def run(q, k, v):
    state = init_prefix_sums(
      q.shape[0], q.shape[2], len(projection), v.shape[-1], dtype=dtype
    )
    features = query_features(q, projection)
    keys = positive_random_features(k, projection)
    return chunked_linear_attention(features, keys, v, state, eps=0.0)[0]

  return run(q, k, v)
