"""What the scores of softmax attention are made of, and what is masked out.

  score[s, t] = scale · q_s · k_t + bias[s, t] + bias_fn(bias_params, s, t),

and -∞ where causality, the window, `mask` or `mask_fn(s, t)` excludes (s, t).

Scores are formed for some queries and some keys at a time. All of them are a
block, too, so the quadratic form and the chunked ones have the same scores.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from slim.kernels.softmax._slices import take
from slim.kernels.softmax._window import Window
from slim.kernels.support.random_bits import (
  fold_in,
  hash_words,
)
from slim.kernels.support.shapes import to_broadcast

Score = Callable[..., jax.Array]


def make_score(
  window: Window,
  *,
  scale: float,
  mask: jax.Array | None,
  mask_fn: Callable[..., jax.Array] | None,
  bias_fn: Callable[..., jax.Array] | None,
  bias_params: Any,
) -> Score:
  """Makes the function that turns products q · k into scores.

  Args:
    window: Which keys a query sees by their distance.
    scale: Of q · k.
    mask: Boolean, [B or 1, H or 1, T or 1, S or 1]; or None.
    mask_fn: `mask_fn(q_index, k_index)`, see `softmax_attention_and_lse`; or
      None.
    bias_fn: `bias_fn(bias_params, q_index, k_index)`, likewise.
    bias_params: Pytree of arrays.

  Returns:
    `score(products, bias, rows, columns)` for products [B, N, G·s, t] of s
    queries, of all G heads that share a head of keys, and t keys; the bias of
    these or None, [B or 1, H or 1, s or 1, t or 1]; and their indices rows [s]
    and columns [t], which are consecutive. It returns the scores, like
    products.
  """

  def score(products, bias, rows, columns):
    batch, num_groups, num_rows, num_columns = products.shape
    size = num_rows // rows.size
    scores = products.reshape(batch, num_groups, size, rows.size, num_columns)

    def by_group(x):
      """[B or 1, H or 1, s or 1, t or 1] as scores are."""
      heads = (num_groups, size) if x.shape[1] > 1 else (1, 1)
      return x.reshape(x.shape[0], *heads, *x.shape[2:])

    def returned(name, fn, args, kind, expected):
      """What a function of the user's returns, checked."""
      # Indices have two axes, and a mask of sequences or heads has four.
      with jax.numpy_rank_promotion("allow"):
        x = fn(*args)
      x = to_broadcast(
        f"what {name} returns",
        x,
        {
          "B": batch,
          "H": num_groups * size,
          "s": rows.size,
          "t": num_columns,
        },
      )
      if not jnp.issubdtype(x.dtype, kind):
        raise ValueError(
          f"what {name} returns must be {expected}, got {x.dtype}"
        )
      return x

    if scale != 1:
      scores *= scale
    index = rows[:, None], columns[None, :]
    biases = [] if bias is None else [bias]
    if bias_fn is not None:
      args = bias_params, *index
      bias = returned("bias_fn", bias_fn, args, jnp.floating, "floating-point")
      biases.append(bias)
    for one in biases:
      one = by_group(one).astype(scores.dtype)
      # A bias of -inf is a mask: it hides a score of NaN, too.
      scores = jnp.where(one == -jnp.inf, one, scores + one)
    seen = []
    if window.low is not None or window.high is not None:
      seen.append(window.sees(*index))
    if mask is not None:
      part = take(mask, rows[0], rows.size, 2)
      seen.append(take(part, columns[0], columns.size, 3))
    if mask_fn is not None:
      seen.append(returned("mask_fn", mask_fn, index, bool, "boolean"))
    for one in seen:
      scores = jnp.where(by_group(one), scores, -jnp.inf)
    return scores.reshape(products.shape)

  return score


def make_dropout_scale(rate: float, keys: jax.Array, num_heads: int) -> Score:
  """Makes the function that says what dropout keeps of the probabilities.

  Each is dropped by bits that depend on (key, head, query, key token) alone, so
  that any blocks, forward and backward, drop the same ones.

  Args:
    rate: Probability to drop, in (0, 1).
    keys: [B], PRNG keys; or [B, 2], raw ones.
    num_heads: H.

  Returns:
    `dropout_scale(rows, columns)`, [B, H, s, t], float32: 0 or 1 / (1 - rate).
  """
  # Of 2³² numbers at least one keeps a pair, however near to 1 the rate is.
  dropped = min(round(rate * 2**32), 2**32 - 1)
  kept_scale = np.float32(min(1 / (1 - rate), 2**32))

  def dropout_scale(rows, columns):
    heads = fold_in(keys[:, None], jnp.arange(num_heads)[None])
    queries = fold_in(heads[:, :, None], rows[None, None])
    pairs = queries[..., None], columns[None, None, None]
    # What folding in makes of a key are random bits already.
    bits, _ = hash_words(*pairs)
    return jnp.where(bits >= np.uint32(dropped), kept_scale, np.float32(0))

  return dropout_scale
