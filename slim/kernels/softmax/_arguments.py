"""The arguments of softmax attention, checked once for all of its forms."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike, DTypeLike

from slim.kernels.softmax._scores import (
  DropoutScale,
  MakeTerms,
  make_dropout_scale,
  term_maker,
)
from slim.kernels.softmax._window import (
  Limits,
  Window,
  known_limits,
  make_window,
)
from slim.kernels.support.dtypes import at_least_float32
from slim.kernels.support.mesh_axes import match_varying_axes
from slim.kernels.support.random_bits import check_keys
from slim.kernels.support.shapes import (
  as_array,
  check_float,
  check_number,
  check_rate,
  check_shape,
  to_broadcast,
)

IndexFn = Callable[[jax.Array, jax.Array], jax.Array]
BiasFn = Callable[[Any, jax.Array, jax.Array], jax.Array]


class Arguments(NamedTuple):
  """The arguments of `softmax_attention_and_lse`, as the user passed them.

  Keys from `num_keys` on are not seen; [], int32; None: all are.
  """

  q: ArrayLike
  k: ArrayLike
  v: ArrayLike
  bias: ArrayLike | None = None
  mask: ArrayLike | None = None
  scale: ArrayLike | None = None
  is_causal: bool = False
  local_window_size: int | tuple[int, int] | None = None
  query_offset: ArrayLike = 0
  mask_fn: IndexFn | None = None
  bias_fn: BiasFn | None = None
  bias_params: Any = None
  dropout_rate: float = 0.0
  dropout_keys: jax.Array | None = None
  precision: jax.lax.PrecisionLike = None
  num_keys: jax.Array | None = None


class Attention(NamedTuple):
  """A softmax attention to compute, made from checked arguments.

  Attributes:
    q: [B, T, H, K].
    k: [B, S, G, K].
    v: [B, S, G, V].
    bias: [B or 1, H or 1, T or 1, S or 1], or None.
    scale: [], multiplied with q · k; or None.
    q_scale: Multiplied with q before it is used.
    product_scale: Multiplied with q · k.
    window: Which keys a query sees by their distance.
    limits: Those of the window, if they are known at compile time; or None.
    make_terms: From `term_maker`.
    dropout_scale: From `make_dropout_scale`, or None.
    precision: Precision of the products, as in `jax.lax.dot_general`.
    dtype: Of the result.
  """

  q: jax.Array
  k: jax.Array
  v: jax.Array
  bias: jax.Array | None
  scale: jax.Array | None
  q_scale: float
  product_scale: float
  window: Window
  limits: Limits | None
  make_terms: MakeTerms
  dropout_scale: DropoutScale | None
  precision: jax.lax.PrecisionLike
  dtype: DTypeLike


def check_attention(arguments: Arguments) -> Attention:
  """Checks the arguments of an attention.

  Args:
    arguments: As the user passed them.

  Returns:
    The attention.

  Raises:
    ValueError: If an argument has the wrong shape, dtype or value. The message
      names the argument, what was expected and what was found.
  """
  q, k, v, bias, mask, sizes = _check_arrays(arguments)
  window_arguments = (
    arguments.local_window_size,
    arguments.is_causal,
    arguments.query_offset,
    sizes,
  )
  window = make_window(*window_arguments)._replace(end=arguments.num_keys)
  for name in ("mask_fn", "bias_fn"):
    fn = getattr(arguments, name)
    if fn is not None and not callable(fn):
      raise ValueError(f"{name} must be a function or None, got {fn!r}")
  dropout_scale = None
  dropout_rate = check_rate("dropout_rate", arguments.dropout_rate)
  dropout_keys = arguments.dropout_keys
  if dropout_keys is not None:
    check_keys("dropout_keys", dropout_keys, (sizes["B"],))
    if dropout_rate:
      dropout_scale = make_dropout_scale(dropout_rate, dropout_keys, sizes["H"])
  dtype = v.dtype
  dtypes = {at_least_float32(x.dtype) for x in (q, k, v)}
  if len(dtypes) > 1:  # The sums of all blocks have one dtype.
    q, k, v = (x.astype(at_least_float32(*dtypes)) for x in (q, k, v))
  scale, static_scale = _split_scale(
    arguments.scale, sizes["K"], at_least_float32(q.dtype, k.dtype)
  )
  # With keys of their own, devices drop other pairs of the same arrays.
  drops = None
  if dropout_scale is not None and dropout_keys is not None:
    drops = jax.random.key_data(dropout_keys)
  q, k, v, bias, scale, mask, window, bias_params, _ = match_varying_axes(
    (q, k, v, bias, scale, mask, window, arguments.bias_params, drops)
  )
  # Scaling q is less work than scaling the scores, but rounds short floats.
  scales_q = jnp.finfo(q.dtype).bits >= 32
  make_terms = term_maker(
    window,
    mask=mask,
    mask_fn=arguments.mask_fn,
    bias_fn=arguments.bias_fn,
    bias_params=bias_params,
    num_sequences=sizes["B"],
    num_heads=sizes["H"],
  )
  return Attention(
    q=q,
    k=k,
    v=v,
    bias=bias,
    scale=scale,
    q_scale=static_scale if scales_q else 1,
    product_scale=1 if scales_q else static_scale,
    window=window,
    limits=known_limits(*window_arguments),
    make_terms=make_terms,
    dropout_scale=dropout_scale,
    precision=_check_precision(arguments.precision),
    dtype=dtype,
  )


def _check_arrays(arguments):
  """Returns q, k, v, bias and mask as arrays, and the sizes by letter."""
  q, k, v = map(as_array, "qkv", arguments[:3])
  check_shape("q", q, "BTHK", {})
  sizes = dict(zip("BTHK", q.shape, strict=True))
  check_shape("k", k, "BSGK", sizes)
  sizes |= {"S": k.shape[1], "G": k.shape[2]}
  check_shape("v", v, "BSGV", sizes)
  if sizes["H"] % sizes["G"]:
    raise ValueError(
      f"k must have a number of heads that divides the {sizes['H']} heads of "
      f"q, got {sizes['G']}"
    )
  bias, mask = arguments.bias, arguments.mask
  pairs = {letter: sizes[letter] for letter in "BHTS"}
  if bias is not None:
    bias = to_broadcast("bias", bias, pairs)
  if mask is not None:
    mask = to_broadcast("mask", mask, pairs)
  for name, x in (("q", q), ("k", k), ("v", v), ("bias", bias)):
    if x is not None:
      check_float(name, x)
  if mask is not None and mask.dtype != bool:
    raise ValueError(
      "mask must be boolean, True where a query sees a key, got "
      f"{mask.dtype}; pass what is added to the scores as bias"
    )
  return q, k, v, bias, mask, sizes


def _split_scale(scale, head_dim, dtype):
  """Returns (array or None, number): the scale is their product.

  A number is known when the function is traced, so it can be applied where it
  costs least. An array may be traced and differentiated.
  """
  default = 1 / math.sqrt(head_dim)
  checked = check_number("scale", default if scale is None else scale)
  if isinstance(checked, jax.Array):
    return checked.astype(dtype), 1
  return None, checked


def _check_precision(precision):
  """Returns the precision, hashable; ValueError if JAX does not accept it."""
  if isinstance(precision, list):
    precision = tuple(precision)
  x = jax.ShapeDtypeStruct((1, 1), jnp.float32)
  try:
    jax.eval_shape(lambda x: jnp.dot(x, x, precision=precision), x)
  except (TypeError, ValueError):
    raise ValueError(
      "precision must be None or what jax.lax.dot_general accepts, such as "
      f"jax.lax.Precision.HIGHEST, got {precision!r}"
    ) from None
  return precision
