"""The arguments of softmax attention, checked once for all of its forms."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from slim.kernels.softmax._scores import (
  Score,
  make_dropout_scale,
  make_score,
)
from slim.kernels.softmax._window import (
  Window,
  make_window,
)
from slim.kernels.support.dtypes import at_least_float32
from slim.kernels.support.mesh_axes import match_varying_axes
from slim.kernels.support.random_bits import check_keys
from slim.kernels.support.shapes import (
  as_array,
  check_number,
  check_rate,
  check_shape,
  to_broadcast,
)


class Attention(NamedTuple):
  """The arguments of an attention, checked.

  Attributes:
    q: [B, T, H, K].
    k: [B, S, N, K].
    v: [B, S, N, V].
    bias: [B or 1, H or 1, T or 1, S or 1], or None.
    scale: [], what products of q and k are to be multiplied with; or None.
    q_scale: What q is to be multiplied with before it is used.
    window: Which keys a query sees by their distance.
    score: From `make_score`.
    dropout_scale: From `make_dropout_scale`, or None.
    precision: Of the matrix products, as of `jax.lax.dot_general`.
  """

  q: jax.Array
  k: jax.Array
  v: jax.Array
  bias: jax.Array | None
  scale: jax.Array | None
  q_scale: float
  window: Window
  score: Score
  dropout_scale: Score | None
  precision: Any


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
  precision,
) -> Attention:
  """Checks the arguments of `softmax_attention_and_lse`; ValueError."""
  q, k, v = map(as_array, "qkv", (q, k, v))
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
  window = make_window(local_window_size, is_causal, query_offset, sizes)
  for name, x in (("mask_fn", mask_fn), ("bias_fn", bias_fn)):
    if x is not None and not callable(x):
      raise ValueError(f"{name} must be a function or None, got {x!r}")
  dropout_scale = None
  dropout_rate = check_rate("dropout_rate", dropout_rate)
  if dropout_keys is not None:
    check_keys("dropout_keys", dropout_keys, (sizes["B"],))
    if dropout_rate:
      dropout_scale = make_dropout_scale(dropout_rate, dropout_keys, sizes["H"])
  dtypes = {at_least_float32(x.dtype) for x in (q, k, v)}
  if len(dtypes) > 1:  # The sums of all blocks have one dtype.
    q, k, v = (x.astype(at_least_float32(*dtypes)) for x in (q, k, v))
  known = 1 / math.sqrt(sizes["K"]) if scale is None else scale
  known, scale = check_number("scale", known), None
  if isinstance(known, jax.Array):
    scale = known.astype(at_least_float32(q.dtype, k.dtype))
    known = 1
  q, k, v, bias, scale, mask, window = match_varying_axes(
    (q, k, v, bias, scale, mask, window)
  )
  # Of queries there are fewer than of scores; short floats would be rounded.
  scales_q = jnp.finfo(q.dtype).bits >= 32
  score = make_score(
    window,
    scale=1 if scales_q else known,
    mask=mask,
    mask_fn=mask_fn,
    bias_fn=bias_fn,
    bias_params=bias_params,
  )
  q_scale = known if scales_q else 1
  return Attention(
    q,
    k,
    v,
    bias,
    scale,
    q_scale,
    window,
    score,
    dropout_scale,
    _precision(precision),
  )


def _precision(precision):
  """The precision, hashable; ValueError where JAX does not know it."""
  if isinstance(precision, list):
    precision = tuple(precision)
  x = jax.ShapeDtypeStruct((1, 1), jnp.float32)
  try:
    jax.eval_shape(lambda x: jnp.dot(x, x, precision=precision), x)
  except (TypeError, ValueError):
    raise ValueError(
      "precision must be None or what jax.lax.dot_general takes, as "
      f"jax.lax.Precision.HIGHEST, got {precision!r}"
    ) from None
  return precision
