"""Inputs and references for tests of LSH attention."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np

from slim.kernels import lsh_attention, lsh_buckets

H, K, V = 4, 6, 5
SCALE = 1 / math.sqrt(K)


def make_inputs(length, num_hashes=3, batch=2):
  """Shared queries and keys, values, a cotangent of y, and buckets."""
  random = np.random.default_rng(length)
  qk, v, y_ct = (
    random.normal(size=(batch, length, H, width)) for width in (K, V, V)
  )
  shape = (batch, H, num_hashes, length)
  return qk, v, y_ct, random.integers(0, 3, shape, dtype=np.uint8)


@functools.partial(
  jax.jit,
  static_argnames=[
    "chunk_size",
    "is_causal",
    "count_once",
    "rounds",
    "heads_at_once",
  ],
)
def by_rounds(qk, v, y_ct, buckets, *, scale=SCALE, **settings):
  """The same by the kernel; equal settings and shapes compile once."""

  def attend(scale, qk, v):
    return lsh_attention(qk, v, buckets, scale=scale, **settings)

  y, vjp = jax.vjp(attend, jnp.asarray(scale), qk, v)
  return y, vjp(y_ct)


@functools.partial(jax.jit, static_argnames=["num_buckets", "num_hashes"])
def hashed(x, key, num_buckets, num_hashes=2):
  """Hashes, compiled once for equal arguments."""
  return lsh_buckets(x, key, num_buckets=num_buckets, num_hashes=num_hashes)
