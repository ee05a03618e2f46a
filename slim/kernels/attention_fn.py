"""Chunked softmax attention in the place of Flax's: its `attention_fn`."""

import math
from typing import Any

import jax
import jax.numpy as jnp

from slim.kernels.chunked_softmax import chunked_softmax_attention


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
    precision: Of the matrix products.
    module: None, as there are no weights that it could be given.
    is_causal: Whether a query sees no later keys.

  Returns:
    [batch…, T, H, V].

  Raises:
    ValueError: If the weights are asked for, or as `chunked_softmax_attention`.
  """
  del broadcast_dropout
  if module is not None:
    raise ValueError(
      "sow_weights must be False: chunked attention never has all weights"
    )
  if dtype is None:
    with jax.numpy_dtype_promotion("standard"):
      dtype = jnp.result_type(query, key, value)
  batch = query.shape[:-3]

  def flat(x, trailing):
    return x.reshape(
      math.prod(x.shape[: x.ndim - trailing]), *x.shape[-trailing:]
    )

  def of_scores(x):
    """A mask or bias with one batch axis, or none."""
    if x is None or x.ndim <= 3:
      return x
    if math.prod(x.shape[:-3]) > 1:
      x = jnp.broadcast_to(x, (*batch, *x.shape[-3:]))
    return flat(x, 3)

  keys = None
  if dropout_rate and not deterministic:
    if not jnp.issubdtype(dropout_rng.dtype, jax.dtypes.prng_key):
      dropout_rng = jax.random.wrap_key_data(dropout_rng)
    keys = jax.random.split(dropout_rng, math.prod(batch))
  with jax.default_matmul_precision(
    precision or jax.config.jax_default_matmul_precision
  ):
    y = chunked_softmax_attention(
      *(flat(x.astype(dtype), 3) for x in (query, key, value)),
      of_scores(bias),
      None if mask is None else of_scores(mask).astype(bool),
      is_causal=is_causal,
      dropout_rate=dropout_rate,
      dropout_keys=keys,
    )
  return y.reshape(*batch, *y.shape[1:])
