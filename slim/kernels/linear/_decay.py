"""Decay between the tokens of a block, without differences and inverses.

The weight of token j for a later token i decays by exp(Σ_{j<s≤i} g_s). A
difference of cumulative sums loses all digits beside one strong decay, and the
product of exp(G_i) and exp(-G_j) overflows. So a block is halved again and
again: at exactly one level is j left and i right of the middle, and there

  Σ_{j<s≤i} g_s = (sum from the middle to i) + (sum from j to the middle).

Sums of larger halves are formed by adding those of smaller ones. All factors
are at most 1. A decay of -inf is an exact reset, with exact gradients.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from slim.kernels.support.products import einsum_f32


class Halves(NamedTuple):
  """Sums of log decays in pieces of 2h tokens, m pieces a block.

  Attributes:
    to_right: [n, m, h, X], for each token right of the middle: from the middle
      up to the token and including it.
    from_left: [n, m, h, X], for each token left of the middle: from the next
      token up to the middle.
  """

  to_right: jax.Array
  from_left: jax.Array


class Decay(NamedTuple):
  """Sums of log decays within blocks of L tokens, a power of 2.

  Attributes:
    levels: For h = 1, 2, 4 … L / 2.
    from_start: [n, L, X], the sum up to each token and including it.
    to_end: [n, L, X], the sum of all tokens after each.
  """

  levels: tuple[Halves, ...]
  from_start: jax.Array
  to_end: jax.Array


def sum_decay(log_decay: jax.Array) -> Decay:
  """Sums log decays within blocks.

  Args:
    log_decay: [n, L, X], at most 0; -inf is allowed. L is a power of 2.

  Returns:
    The sums.
  """
  num_blocks, size, width = log_decay.shape
  # Of pieces of h tokens: sums up to each token, and of those after it.
  first = log_decay.reshape(num_blocks, size, 1, width)
  last = jnp.zeros_like(first)
  levels = []
  while first.shape[1] > 1:
    first_left, first_right = _split(first)
    last_left, last_right = _split(last)
    levels.append(Halves(first_right, last_left))
    first = jnp.concatenate(
      [first_left, first_left[:, :, -1:] + first_right], 2
    )
    last = jnp.concatenate([last_left + first_right[:, :, -1:], last_right], 2)
  return Decay(tuple(levels), first[:, 0], last[:, 0])


def decayed_products(
  rows: Sequence[jax.Array], k: jax.Array, decay: Decay
) -> list[jax.Array]:
  """Computes the decayed products of tokens with those before them.

  weights[i, j] = Σ_c rows[i, c] k[j, c] exp(Σ_{j<s≤i} g[s, c]),   j ≤ i.

  Args:
    rows: Each [n, L, K].
    k: [n, L, K].
    decay: Of these blocks, with X = 1 or X = K.

  Returns:
    For each of `rows` its weights [n, L, L], 0 for j > i.

  Work: for X = 1 one product of [L, K] and [K, L] a block; for X = K half as
  many multiplications, and one exponential a level, token and channel.
  """
  if decay.from_start.shape[-1] == 1:
    decays = jnp.exp(_log_weights(decay))
    return [einsum_f32("nic,njc->nij", x, k) * decays for x in rows]
  num_blocks, size, width = k.shape
  weights = [jnp.sum(x * k, -1).reshape(num_blocks, size, 1, 1) for x in rows]
  for half in decay.levels:
    h = half.to_right.shape[2]
    # One batch axis: with more of them, XLA's CPU products of small float32
    # matrices crash (jax 0.10.2).
    pieces = size // (2 * h)
    flat = num_blocks * pieces, h, width
    left, _ = _split(k.reshape(num_blocks, size // h, h, width))
    left = (left * jnp.exp(half.from_left)).reshape(flat)
    factor = jnp.exp(half.to_right)
    for n, x in enumerate(rows):
      _, right = _split(x.reshape(num_blocks, size // h, h, width))
      right = (right * factor).reshape(flat)
      across = einsum_f32("mic,mjc->mij", right, left)
      across = across.reshape(num_blocks, pieces, h, h)
      weights[n] = _join(weights[n], across)
  return [x[:, 0] for x in weights]


def _log_weights(decay):
  """The sums between pairs of tokens, [n, L, L]; -inf above the diagonal."""
  num_blocks, size, _ = decay.from_start.shape
  sums = jnp.zeros((num_blocks, size, 1, 1), decay.from_start.dtype)
  for half in decay.levels:
    across = half.to_right + jnp.swapaxes(half.from_left, -1, -2)
    sums = _join(sums, across, above=-jnp.inf)
  return sums[:, 0]


def _split(x):
  """Halves: [n, 2m, h, …] to the left and the right ones, [n, m, h, …]."""
  x = x.reshape(x.shape[0], x.shape[1] // 2, 2, *x.shape[2:])
  return x[:, :, 0], x[:, :, 1]


def _join(within, across, above=0.0):
  """Joins matrices of halves, [n, 2m, h, h], to those of pieces of 2h.

  Args:
    within: Of pairs in one half.
    across: [n, m, h, h], of right tokens with left ones.
    above: Number, for left tokens with right ones.

  Returns:
    [n, m, 2h, 2h].
  """
  left, right = _split(within)
  return jnp.concatenate(
    [
      jnp.concatenate([left, jnp.full_like(left, above)], -1),
      jnp.concatenate([across, right], -1),
    ],
    2,
  )
