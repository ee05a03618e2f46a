"""Softmax attention refuses wrong arguments in one line."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from slim.kernels import (
  append_softmax_attention,
  chunked_softmax_attention,
  chunked_softmax_attention_and_lse,
  init_cache,
  merge_attention,
  softmax_attention,
)
from tests.kernels.softmax.arguments import KEYS, zeros


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"q": (2, 3, 4)}, r"q must have shape \[B, T, H, K\], got \(2, 3, 4\)"),
    ({"k": (2, 6, 4, 7)}, r"k must have shape .*K=8, got \(2, 6, 4, 7\)"),
    ({"k": (2, 6, 3, 8), "v": (2, 6, 3, 8)}, "k must have a number of heads"),
    ({"v": (2, 5, 2, 8)}, r"v must have shape .*S=6.*got \(2, 5, 2, 8\)"),
    ({"bias": (2, 4, 5, 3)}, r"bias must broadcast to \[B=2, H=4, T=5, S=6\]"),
    ({"mask": (5, 6)}, "mask must be boolean, .* got float32; pass what is ad"),
    ({"local_window_size": -1}, "local_window_size must be an integer >= 0 or"),
    ({"local_window_size": (1, -2)}, r"got \(1, -2\)"),
    ({"local_window_size": 2.5}, "local_window_size .* got 2.5"),
    ({"local_window_size": True}, "local_window_size .* got True"),
    ({"is_causal": "no"}, "is_causal must be True or False, got 'no'"),
    ({"query_offset": 2.7}, r"query_offset must be an integer.*\[B=2\].*2.7"),
    ({"query_offset": "1"}, "query_offset must be an integer, .* got '1'"),
    ({"query_offset": True}, "query_offset must be an integer, .* got True"),
    ({"query_offset": np.zeros(2)}, "query_offset must be .* got float64"),
    ({"query_offset": KEYS}, "query_offset must be .* got key<fry>"),
    ({"query_offset": np.arange(3)}, r"query_offset .* got shape \(3,\)"),
    ({"query_offset": np.array([[0], [4]])}, r"query_offset .* shape \(2, 1\)"),
    ({"scale": "1"}, r"scale must be a number, .* shape \[\], got '1'"),
    ({"scale": True}, "scale must be a number, .* got True"),
    ({"scale": np.ones(2)}, r"scale must be .* got float64 of shape \(2,\)"),
    ({"scale": KEYS[0]}, r"scale must be .* got key<fry> of shape \(\)"),
    ({"dropout_rate": 1.0}, r"dropout_rate must be in \[0, 1\), got 1.0"),
    ({"dropout_rate": np.float32(-1)}, r"dropout_rate must be in \[0, 1\)"),
    ({"dropout_rate": "0.1"}, "dropout_rate must be a number, .* got '0.1'"),
    ({"dropout_keys": KEYS[:1]}, r"dropout_keys must be .* \(2,\), got \(1,\)"),
    ({"dropout_keys": 1}, "dropout_keys must be PRNG keys, as from jax.random"),
    ({"precision": "low"}, "precision must be None or .* got 'low'"),
    ({"q_block_size": 0}, "q_block_size must be a positive integer, got 0"),
    ({"k_block_size": 1.5}, "k_block_size must be a positive integer, got 1."),
    ({"backward": "lse"}, r"backward must be one of .*'remat'\), got 'lse'"),
    ({"mask_fn": 1}, "mask_fn must be a function or None, got 1"),
    ({"bias_fn": "f"}, "bias_fn must be a function or None, got 'f'"),
    (
      {"mask_fn": lambda i, j: (i > j)[:3]},
      r"what mask_fn returns must broadcast to \[B=2, H=4, s=5, t=6\], got sh",
    ),
    ({"mask_fn": lambda i, j: i - j}, "what mask_fn returns must be boolean"),
    (
      {"bias_fn": lambda _, i, j: jnp.zeros((3, 1, 1))},
      r"what bias_fn returns must broadcast .* got shape \(3, 1, 1\)",
    ),
    ({"bias_fn": lambda _, i, j: i - j}, "what bias_fn returns must be float"),
  ],
)
def test_wrong_arguments_are_refused(changes, message):
  """Fails if the error comes from inside a loop, or if there is none."""
  arrays = {
    name: changes.pop(name)
    for name in ("q", "k", "v", "bias", "mask")
    if name in changes
  }
  with pytest.raises(ValueError, match=message) as error:
    chunked_softmax_attention_and_lse(**zeros(**arrays), **changes)
  assert "\n" not in str(error.value)


def test_non_arrays_are_refused():
  """Fails if the error does not name the argument and what was found."""
  arguments = zeros()
  with pytest.raises(ValueError, match="k must be an array, got NoneType"):
    softmax_attention(arguments["q"], None, arguments["v"])
  x = jnp.zeros((1, 2, 1, 3), jnp.int32)
  with pytest.raises(ValueError, match="q must be floating-point, got int32"):
    softmax_attention(x, x, x)
  with pytest.raises(ValueError, match="dropout_rate must be known when the"):
    jax.jit(lambda rate: softmax_attention(**arguments, dropout_rate=rate))(0.1)


def test_pieces_of_other_shapes_are_refused():
  """Fails if heads are taken for tokens, as some kernels return them."""
  y = jnp.zeros((1, 3, 2, 4))
  for lse in ((1, 2, 3), (1, 3), (1, 3, 1)):
    with pytest.raises(ValueError, match=r"pieces must have y \[B, T, H, V\]"):
      merge_attention([(y, jnp.zeros(lse))])


def test_more_blocks_than_a_loop_counts_are_refused():
  """Fails if the count overflows, and no block is visited."""
  x = jax.ShapeDtypeStruct((1, 16 * 46_341, 1, 1), jnp.float32)
  attend = functools.partial(
    chunked_softmax_attention, q_block_size=16, k_block_size=16
  )
  with pytest.raises(ValueError, match="_block_size must be larger, .*21474"):
    jax.eval_shape(attend, x, x, x)


def test_tokens_beyond_the_cache_raise_or_give_nan():
  """Fails if tokens that do not fit replace earlier ones without notice."""
  x, cache = jnp.ones((1, 3, 2, 4)), init_cache(1, 8, 2, 4, 4)
  message = "cache must have room for 3 tokens from position 6, got 8 rows"
  with pytest.raises(ValueError, match=message):
    append_softmax_attention(x, x, x, cache, 6)
  with pytest.raises(ValueError, match="from position 2147483647"):
    append_softmax_attention(x, x, x, cache, 2**31 - 1)
  attend = jax.jit(append_softmax_attention)
  last = 2**31 - 1
  for position, has_room in (5, True), (6, False), (-1, False), (last, False):
    y, _ = attend(x, x, x, cache, position)
    assert np.isfinite(y).all() if has_room else np.isnan(y).all()
