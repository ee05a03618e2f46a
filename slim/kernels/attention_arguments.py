"""The arguments of softmax attention, checked once for all of its forms."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from slim.kernels.attention_scores import Score, Window, make_keep, make_score
from slim.kernels.hoisting import vary_alike
from slim.kernels.shapes import check_shape, to_broadcast


class Attention(NamedTuple):
  """The arguments of an attention, checked.

  Attributes:
    q: [B, T, H, K].
    k: [B, S, N, K].
    v: [B, S, N, V].
    bias: [B or 1, H or 1, T or 1, S or 1], or None.
    q_scale: What q is to be multiplied with before it is used.
    window: Which keys a query sees by their distance.
    score: From `make_score`.
    keep: From `make_keep`, or None.
  """

  q: jax.Array
  k: jax.Array
  v: jax.Array
  bias: jax.Array | None
  q_scale: float
  window: Window
  score: Score
  keep: Score | None


def check_attention(
  q,
  k,
  v,
  bias,
  mask,
  scale,
  is_causal,
  local_window_size,
  query_offset,
  mask_fn,
  bias_fn,
  bias_params,
  dropout_rate,
  dropout_keys,
) -> Attention:
  """Checks the arguments of `softmax_attention_and_lse`; ValueError."""
  check_shape("q", q, "BTHK", {})
  sizes = dict(zip("BTHK", q.shape, strict=True))
  check_shape("k", k, "BSNK", sizes)
  sizes |= {"S": k.shape[1], "N": k.shape[2]}
  check_shape("v", v, "BSNV", sizes)
  if sizes["H"] % sizes["N"]:
    raise ValueError(
      f"k must have a number of heads that divides the {sizes['H']} heads of "
      f"q, got {sizes['N']}"
    )
  pairs = {letter: sizes[letter] for letter in "BHTS"}
  if bias is not None:
    bias = to_broadcast("bias", bias, pairs)
  if mask is not None:
    mask = to_broadcast("mask", mask, pairs)
  for name, x in (("q", q), ("k", k), ("v", v), ("bias", bias)):
    if x is not None and not jnp.issubdtype(x.dtype, jnp.floating):
      raise ValueError(f"{name} must be floating-point, got {x.dtype}")
  if mask is not None and mask.dtype != bool:
    raise ValueError(
      f"mask must be boolean, True where a query sees a key, got {mask.dtype}; "
      "what is added to the scores is the bias"
    )
  left, right = _window(local_window_size)
  if is_causal:
    right = 0
  if not isinstance(dropout_rate, int | float) or not 0 <= dropout_rate < 1:
    raise ValueError(f"dropout_rate must be in [0, 1), got {dropout_rate!r}")
  keep = None
  if dropout_rate and dropout_keys is not None:
    if jnp.shape(dropout_keys) != q.shape[:1]:
      raise ValueError(
        f"dropout_keys must have shape [B={sizes['B']}], one PRNG key a "
        f"sequence, got {jnp.shape(dropout_keys)}"
      )
    keep = make_keep(dropout_rate, dropout_keys, sizes["H"])
  offset = jnp.asarray(query_offset, jnp.int32)
  q, k, v, bias, mask, offset = vary_alike((q, k, v, bias, mask, offset))
  window = Window(left, right, offset)
  scale = 1 / math.sqrt(sizes["K"]) if scale is None else scale
  # Of queries there are fewer than of scores; short floats would be rounded.
  scales_q = jnp.finfo(q.dtype).bits >= 32
  score = make_score(
    window,
    scale=1 if scales_q else scale,
    mask=mask,
    mask_fn=mask_fn,
    bias_fn=bias_fn,
    bias_params=bias_params,
  )
  q_scale = scale if scales_q else 1
  return Attention(q, k, v, bias, q_scale, window, score, keep)


def _window(size):
  """(left, right) of a window; None where it has no bound; ValueError."""
  if size is None:
    return None, None
  pair = (size, size) if isinstance(size, int) else tuple(size)
  whole = len(pair) == 2 and all(type(n) is int and n >= 0 for n in pair)
  if not whole or size == 0:
    raise ValueError(
      "local_window_size must be a positive integer or a pair of integers "
      f">= 0, (left, right), got {size!r}"
    )
  return pair
