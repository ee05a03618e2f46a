"""Chunked softmax attention in the place of Flax's: its `attention_fn`."""

import math
from typing import Any

import jax
import jax.numpy as jnp

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
  query: jax.Array,
  key: jax.Array,
  value: jax.Array,
  bias: jax.Array | None = None,
  mask: jax.Array | None = None,
  *,
  broadcast_dropout: bool = True,
  dropout_rng: jax.Array | None = None,
  dropout_rate: float = 0.0,
  deterministic: bool = False,
  dtype: Any = None,
  precision: Any = None,
  module: Any = None,
  is_causal: bool = False,
) -> jax.Array:
  """`flax.linen.dot_product_attention`, and that of `flax.nnx`, in O(T) memory.

  For `MultiHeadDotProductAttention(…, attention_fn=attention_fn)` of Linen and
  `MultiHeadAttention(…, attention_fn=attention_fn)` of NNX. A mask that they
  are given has T² elements: where causality is all it says, NNX takes
  `is_causal=True` instead.

  Args:
    query: [batch…, T, H, K].
    key: [batch…, S, N, K]; N divides H.
    value: [batch…, S, N, V].
    bias: Broadcasts to [batch…, H, T, S].
    mask: Likewise; not 0 where a query sees a key.
    broadcast_dropout: Not followed: dropout never is the same for two heads or
      sequences.
    dropout_rng: PRNG key.
    dropout_rate: In [0, 1).
    deterministic: Whether nothing is dropped.
    dtype: Of the computation; None: what the arrays promote to.
    precision: Of the matrix products, forward and backward, as of
      `jax.lax.dot_general`.
    module: None, as there are no weights that it could be given.
    is_causal: Whether a query sees no later keys.

  Returns:
    [batch…, T, H, V].

  Raises:
    ValueError: If the weights are asked for, if the batch axes of arguments
      differ, or as `chunked_softmax_attention`.
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
    """A mask or bias with one batch axis, of length 1 if it broadcasts."""
    x = to_broadcast(name, x, sizes)
    if math.prod(x.shape[:-3]) > 1:
      x = jnp.broadcast_to(x, (*batch, *x.shape[-3:]))
    return x.reshape(math.prod(x.shape[:-3]), *x.shape[-3:])

  dropout_rate = check_rate("dropout_rate", dropout_rate)
  keys = None
  if dropout_rate and not deterministic:
    check_keys("dropout_rng", dropout_rng, ())
    keys = split(dropout_rng, num_sequences)
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
  """The batch axes, and the sizes of all axes of scores; ValueError."""
  sizes = {}
  for name, x, axes in (
    ("query", query, "THK"),
    ("key", key, "SNK"),
    ("value", value, "SNV"),
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
  if sizes["H"] % sizes["N"]:
    raise ValueError(
      f"key must have a number of heads that divides the {sizes['H']} heads of "
      f"query, got {sizes['N']}"
    )
  batch = sizes["batch"]
  of_batch = {f"batch{i}": n for i, n in enumerate(batch)}
  return batch, of_batch | {axis: sizes[axis] for axis in "HTS"}
