"""Calls of every attention kernel, with masks, biases and dropout."""

import functools

import jax
import jax.numpy as jnp

from slim import kernels
from slim.kernels.support.dtypes import at_least_float32
from tests.kernels.jax_modes.case import BTHK, BTNK, B, H, K, T, case, keys


@case("relu elu_plus_one square FEATURE_MAPS", BTHK)
def _feature_maps(x):
  return [fn(x) for fn in kernels.FEATURE_MAPS.values()]


@case(
  "sample_projection positive_random_features positive_random_query_features",
  BTHK,
)
def _random_features(x):
  w = kernels.sample_projection(jax.random.key(0), 4, K)
  return (
    kernels.positive_random_features(x, w),
    kernels.positive_random_query_features(x, w),
  )


@case(
  "PrefixSums init_prefix_sums token_sums add_sums rewind_prefix_sums",
  BTHK,
  BTHK,
)
def _prefix_sums(k, v):
  state = kernels.init_prefix_sums(B, H, K, K, compensated=True)
  update = kernels.token_sums(k, v, block_size=2)
  state = kernels.add_sums(state, update)
  return state, kernels.rewind_prefix_sums(state, update)


def _linear_attention(fn, q, k, v, **settings):
  q, k = kernels.relu(q), kernels.relu(k)
  dtype = at_least_float32(q.dtype, k.dtype, v.dtype)
  state = kernels.init_prefix_sums(B, H, K, K, dtype=dtype)
  y, state = fn(q, k, v, state, **settings)
  return y, *fn(q, k, v, state, **settings)


@case("parallel_linear_attention", BTHK, BTHK, BTHK)
def _parallel_linear_attention(*qkv):
  return _linear_attention(kernels.parallel_linear_attention, *qkv)


@case("recurrent_linear_attention", BTHK, BTHK, BTHK)
def _recurrent_linear_attention(*qkv):
  return _linear_attention(kernels.recurrent_linear_attention, *qkv)


@case("chunked_linear_attention", BTHK, BTHK, BTHK)
def _chunked_linear_attention(*qkv):
  fn = kernels.chunked_linear_attention
  return _linear_attention(fn, *qkv, block_size=2)


BTH = BTHK[:3]


def _gated(fn, q, k, v, decay, *erase, **settings):
  dtype = at_least_float32(*(x.dtype for x in (q, k, v, decay, *erase)))
  state = kernels.init_gated_state(B, H, K, K, dtype=dtype)
  erase = erase[0] if erase else None
  run = functools.partial(fn, q, k, v, -abs(decay), erase=erase, **settings)
  y, state = run(state)
  return y, *run(state)


@case("recurrent_gated_linear_attention init_gated_state", *[BTHK] * 5)
def _recurrent_gated_linear_attention(*args):
  return _gated(kernels.recurrent_gated_linear_attention, *args)


@case("chunked_gated_linear_attention init_gated_state", *[BTHK] * 5)
def _channel_gated_linear_attention(*args):
  fn = kernels.chunked_gated_linear_attention
  return _gated(fn, *args, block_size=2)


@case("chunked_gated_linear_attention init_gated_state", *[BTHK] * 3, BTH)
def _head_gated_linear_attention(*args):
  fn = kernels.chunked_gated_linear_attention
  return _gated(fn, *args, block_size=4)


@case("short_convolution", (B, T, K), (2, K), (B, 1, K))
def _short_convolution(x, weights, state):
  return kernels.short_convolution(x, weights, state)


@case("short_convolution", (B, T, K), (2, K))
def _short_convolution_of_documents(x, weights):
  positions = jnp.arange(T)[None] % 3 + jnp.zeros((B, 1), int)
  state = jnp.zeros((B, 1, K))
  return kernels.short_convolution(x, weights, state, positions=positions)


@case("append_softmax_attention init_cache KVCache", BTHK, BTNK, BTNK)
def _append_softmax_attention(q, k, v):
  dtype = at_least_float32(q.dtype, k.dtype, v.dtype)
  cache = kernels.init_cache(B, 2 * T, 1, K, K, dtype=dtype)
  outputs = []
  for position in (0, T):
    y, cache = kernels.append_softmax_attention(
      q, k, v, cache, position, q_block_size=2, k_block_size=3
    )
    outputs.append(y)
  return outputs, kernels.KVCache(*cache)


def softmax_settings(q, slope):
  """All terms that scores can have; some queries see no key."""
  lengths = jnp.array([5, 3, 1, 2], jnp.int32)
  # Sharded like the sequences, if they are.
  lengths += jnp.zeros_like(q.sum((1, 2, 3)), jnp.int32)
  return {
    "mask": jnp.arange(T)[:, None] != 2,
    "is_causal": True,
    "local_window_size": (3, 0),
    "mask_fn": lambda i, j: j < lengths[:, None, None, None],
    "bias_fn": lambda slope, i, j: (
      slope * -abs(i - j).astype(slope.dtype)[None]
    ),
    "bias_params": slope,
    "dropout_rate": 0.2,
    "dropout_keys": keys(),
  }


SOFTMAX = BTHK, BTNK, BTNK, (1, H, 1, T), (H, 1, 1)


@case("softmax_attention", *SOFTMAX)
def _softmax_attention(q, k, v, bias, slope):
  settings = softmax_settings(q, slope)
  return kernels.softmax_attention(q, k, v, bias, **settings)


@case("chunked_softmax_attention", *SOFTMAX)
def _chunked_softmax_attention(q, k, v, bias, slope, **blocks):
  return kernels.chunked_softmax_attention(
    q,
    k,
    v,
    bias,
    **softmax_settings(q, slope),
    q_block_size=2,
    k_block_size=3,
    **blocks,
  )


@case("chunked_softmax_attention", *SOFTMAX)
def _remat_softmax_attention(*args):
  return _chunked_softmax_attention(*args, backward="remat")


@case(
  "softmax_attention_and_lse chunked_softmax_attention_and_lse merge_attention",
  BTHK,
  BTNK,
  BTNK,
)
def _softmax_attention_and_lse(q, k, v):
  return kernels.merge_attention(
    [
      kernels.softmax_attention_and_lse(q, k, v, is_causal=True),
      kernels.chunked_softmax_attention_and_lse(
        q, k, v, local_window_size=1, q_block_size=2, k_block_size=2
      ),
    ]
  )


@case("attention_fn", BTHK, BTHK, BTHK, (1, H, 1, T))
def _attention_fn(q, k, v, bias):
  mask = jnp.arange(B)[:, None, None, None] != jnp.arange(T)[None, None, None]
  return kernels.attention_fn(
    q,
    k,
    v,
    bias,
    mask,
    dropout_rng=jax.random.key(4),
    dropout_rate=0.2,
    is_causal=True,
  )


def _lsh(qk, v, **settings):
  buckets = kernels.lsh_buckets(
    qk, jax.random.key(5), num_buckets=4, num_hashes=2
  )
  return kernels.lsh_attention(
    qk, v, buckets, chunk_size=2, is_causal=True, **settings
  )


@case("lsh_attention lsh_buckets", BTHK, BTHK)
def _lsh_attention(qk, v):
  return _lsh(qk, v, heads_at_once=1)


@case("lsh_attention lsh_buckets", BTHK, BTHK)
def _parallel_lsh_attention(qk, v):
  return _lsh(qk, v, rounds="parallel")
