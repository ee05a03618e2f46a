"""The scores of softmax attention, and the scale of its dropout.

  score[s, t] = scale · q_s · k_t + bias[s, t] + bias_fn(bias_params, s, t),

and -inf where causality, the window, `mask` or `mask_fn(s, t)` hides t from s.

Scores are computed for a block of queries and keys. The quadratic form is one
block, so all forms of attention have the same scores.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from slim.kernels.softmax._slices import slice_or_broadcast
from slim.kernels.softmax._window import Window
from slim.kernels.support.random_bits import (
  fold_in,
  hash_words,
)
from slim.kernels.support.shapes import to_broadcast

MakeTerms = Callable[[jax.Array | None, jax.Array, jax.Array], "Terms"]
DropoutScale = Callable[[jax.Array, jax.Array], jax.Array]


class Terms(NamedTuple):
  """What is added to the products q · k of a block, and what hides them.

  Attributes:
    biases: Each [B or 1, H or 1, s or 1, t or 1], float.
    masks: Each of such a shape, boolean.
  """

  biases: list[jax.Array]
  masks: list[jax.Array]

  def scores(
    self, products: jax.Array, scale: float, num_rows: int
  ) -> jax.Array:
    """Turns products into scores.

    Args:
      products: [B, G, H/G·s, t], of s queries in each of the heads that share
        a key head, and of t keys.
      scale: Multiplied with the products.
      num_rows: s.

    Returns:
      Array like `products`.
    """
    shape = _BlockShape.of(products, num_rows)
    scores = products.reshape(shape)
    if scale != 1:
      scores *= scale
    for bias in self.biases:
      bias = shape.split_heads(bias).astype(scores.dtype)
      # A bias of -inf is a mask: it hides a score of NaN, too.
      scores = jnp.where(bias == -jnp.inf, bias, scores + bias)
    for seen in self.masks:
      scores = jnp.where(shape.split_heads(seen), scores, -jnp.inf)
    return scores.reshape(products.shape)


def term_maker(
  window: Window,
  *,
  mask: jax.Array | None,
  mask_fn: Callable[..., jax.Array] | None,
  bias_fn: Callable[..., jax.Array] | None,
  bias_params: Any,
  num_sequences: int,
  num_heads: int,
) -> MakeTerms:
  """Makes the function that computes the terms of a block.

  Args:
    window: Which keys a query sees by their distance.
    mask: Boolean, [B or 1, H or 1, T or 1, S or 1]; or None.
    mask_fn: `mask_fn(q_index, k_index)` of `softmax_attention_and_lse`; or
      None.
    bias_fn: `bias_fn(bias_params, q_index, k_index)`, likewise.
    bias_params: Pytree of arrays.
    num_sequences: B.
    num_heads: H.

  Returns:
    `make_terms(bias, rows, columns)`. bias: [B or 1, H or 1, s or 1, t or 1],
    or None. rows: [s], and columns: [t], the indices of the tokens,
    consecutive.
  """

  def make_terms(bias, rows, columns):
    sizes = {
      "B": num_sequences,
      "H": num_heads,
      "s": rows.size,
      "t": columns.size,
    }
    index = rows[:, None], columns[None, :]
    biases = [] if bias is None else [bias]
    if bias_fn is not None:
      added = _call("bias_fn", bias_fn, (bias_params, *index), sizes)
      biases.append(_check_dtype("bias_fn", added, jnp.floating))
    masks = []
    if window.hides:
      masks.append(window.sees(*index))
    if mask is not None:
      starts = {2: rows[0], 3: columns[0]}
      lengths = {2: rows.size, 3: columns.size}
      masks.append(slice_or_broadcast(mask, starts, lengths))
    if mask_fn is not None:
      seen = _call("mask_fn", mask_fn, index, sizes)
      masks.append(_check_dtype("mask_fn", seen, bool))
    return Terms(biases, masks)

  return make_terms


def make_dropout_scale(
  rate: float, keys: jax.Array, num_heads: int
) -> DropoutScale:
  """Makes the function that scales or drops attention weights.

  The random bits of a pair depend only on (key, head, query, key token). So
  all blocks, forward and backward, drop the same pairs.

  Args:
    rate: Probability to drop, in (0, 1).
    keys: [B], PRNG keys; or [B, 2], raw ones.
    num_heads: H.

  Returns:
    `dropout_scale(rows, columns)`, [B, H, s, t], float32: 0 or 1 / (1 - rate).
  """
  # At least one of 2³² numbers keeps a pair, however near to 1 the rate is.
  dropped = min(round(rate * 2**32), 2**32 - 1)
  kept_scale = np.float32(min(1 / (1 - rate), 2**32))

  def dropout_scale(rows, columns):
    heads = fold_in(keys[:, None], jnp.arange(num_heads)[None])
    queries = fold_in(heads[:, :, None], rows[None, None])
    pairs = queries[..., None], columns[None, None, None]
    # Folding in makes random bits already: they need not be drawn from a key.
    bits, _ = hash_words(*pairs)
    return jnp.where(bits >= np.uint32(dropped), kept_scale, np.float32(0))

  return dropout_scale


class _BlockShape(NamedTuple):
  """Shape of a block of scores with its heads split in two axes."""

  batch: int
  num_groups: int
  heads_per_group: int
  num_rows: int
  num_columns: int

  @classmethod
  def of(cls, products, num_rows):
    batch, num_groups, rows, num_columns = products.shape
    return cls(batch, num_groups, rows // num_rows, num_rows, num_columns)

  def split_heads(self, x):
    """[B or 1, H or 1, s or 1, t or 1] to axes that broadcast with scores."""
    heads = (
      (self.num_groups, self.heads_per_group) if x.shape[1] > 1 else (1, 1)
    )
    return x.reshape(x.shape[0], *heads, *x.shape[2:])


def _call(name, fn, args, sizes):
  """Calls a function of the user and gives its result all four axes."""
  # Indices have two axes, but a mask per sequence or head has four.
  with jax.numpy_rank_promotion("allow"):
    x = fn(*args)
  return to_broadcast(f"what {name} returns", x, sizes)


def _check_dtype(name, x, kind):
  if not jnp.issubdtype(x.dtype, kind):
    expected = "boolean" if kind is bool else "floating-point"
    raise ValueError(f"what {name} returns must be {expected}, got {x.dtype}")
  return x
