"""Chunked softmax attention as the `attention_fn` of Flax."""

import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike, DTypeLike

from slim.kernels.softmax.chunked import chunked_softmax_attention
from slim.kernels.support.dtypes import promote
from slim.kernels.support.explicit_meshes import in_mesh_of_arguments
from slim.kernels.support.random_bits import (
  check_keys,
  split,
)
from slim.kernels.support.shapes import (
  as_array,
  check_rate,
  to_broadcast,
)


@in_mesh_of_arguments
def attention_fn(
  query: ArrayLike,
  key: ArrayLike,
  value: ArrayLike,
  bias: ArrayLike | None = None,
  mask: ArrayLike | None = None,
  *,
  broadcast_dropout: bool = True,
  dropout_rng: jax.Array | None = None,
  dropout_rate: float = 0.0,
  deterministic: bool = False,
  dtype: DTypeLike | None = None,
  precision: jax.lax.PrecisionLike = None,
  module: Any = None,
  is_causal: bool = False,
) -> jax.Array:
  """A drop-in replacement for the attention of Flax, in O(T) memory.

  Pass it as `attention_fn` to `flax.linen.MultiHeadDotProductAttention` or
  `flax.nnx.MultiHeadAttention`. A mask has T² elements: for plain causality,
  pass `is_causal=True` to NNX instead.

  Args:
    query: [batch…, T, H, K].
    key: [batch…, S, G, K]. G divides H.
    value: [batch…, S, G, V].
    bias: Broadcastable to [batch…, H, T, S].
    mask: Broadcastable to [batch…, H, T, S]. Nonzero where a query sees a key.
    broadcast_dropout: Ignored. Dropout always differs between heads and
      sequences.
    dropout_rng: PRNG key.
    dropout_rate: Probability to drop a pair, in [0, 1).
    deterministic: Whether to disable dropout.
    dtype: Dtype of the computation. Default: what the arrays promote to.
    precision: Precision of all matrix products, as in
      `jax.lax.dot_general`.
    module: Must be None, because there are no weights to sow.
    is_causal: Whether a query sees no later keys.

  Returns:
    [batch…, T, H, V].

  Raises:
    ValueError: If weights are requested, or if an argument has the wrong shape,
      dtype or value.
  """
  del broadcast_dropout
  if module is not None:
    raise ValueError(
      "sow_weights must be False: chunked attention never has all weights"
    )
  names = "query", "key", "value"
  arrays = list(map(as_array, names, (query, key, value)))
  dtype = dtype or promote(*(x.dtype for x in arrays))
  if not jnp.issubdtype(dtype, jnp.floating):
    raise ValueError(
      f"query, key and value must be floating-point, got {dtype}"
    )
  batch, sizes = _check_shapes(*arrays)
  num_sequences = math.prod(batch)

  def of_scores(name, x):
    """Makes one batch axis of a mask or bias, of length 1 if it broadcasts."""
    x = to_broadcast(name, x, sizes)
    if math.prod(x.shape[:-3]) > 1:
      x = jnp.broadcast_to(x, (*batch, *x.shape[-3:]))
    return x.reshape(math.prod(x.shape[:-3]), *x.shape[-3:])

  dropout_rate = check_rate("dropout_rate", dropout_rate)
  keys = None
  if dropout_rate and not deterministic:
    keys = split(check_keys("dropout_rng", dropout_rng, ()), num_sequences)
  y = chunked_softmax_attention(
    *(x.astype(dtype).reshape(num_sequences, *x.shape[-3:]) for x in arrays),
    None if bias is None else of_scores("bias", bias),
    None if mask is None else of_scores("mask", mask).astype(bool),
    is_causal=is_causal,
    dropout_rate=dropout_rate,
    dropout_keys=keys,
    precision=precision,
  )
  return y.reshape(*batch, *y.shape[1:])


def _check_shapes(query, key, value):
  """Returns the batch axes, and all sizes by name; ValueError."""
  sizes = {}
  for name, x, axes in (
    ("query", query, "THK"),
    ("key", key, "SGK"),
    ("value", value, "SGV"),
  ):
    found = {
      "batch": x.shape[:-3],
      **dict(zip(axes, x.shape[-3:], strict=False)),
    }
    if (
      x.ndim < 3
      or 0 in x.shape[-3:]
      or any(sizes.get(axis, n) != n for axis, n in found.items())
    ):
      known = ", ".join(
        f"{axis}={sizes[axis]}" for axis in ("batch", *axes) if axis in sizes
      )
      raise ValueError(
        f"{name} must have shape [batch…, {', '.join(axes)}]"
        f"{f' with {known}' if known else ''}, got {x.shape}"
      )
    sizes |= found
  if sizes["H"] % sizes["G"]:
    raise ValueError(
      f"key must have a number of heads that divides the {sizes['H']} heads of "
      f"query, got {sizes['G']}"
    )
  batch = sizes["batch"]
  of_batch = {f"batch{i}": n for i, n in enumerate(batch)}
  return batch, of_batch | {axis: sizes[axis] for axis in "HTS"}
