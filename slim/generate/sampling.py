"""Sampling a token from logits: temperature, top-k, top-p, min-p."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from slim.kernels.support.dtypes import at_least_float32


class Sampling(NamedTuple):
  """How tokens are drawn; the defaults draw from the model as it is.

  Attributes:
    temperature: τ; p is proportional to exp(logit / τ). 0: always the most
      probable token.
    top_k: How many of the most probable tokens may be drawn; 0: all.
    top_p: Of these, the most probable ones are kept, until they have this share
      of the probability; in (0, 1].
    min_p: Of these, tokens are dropped that have less than this share of the
      probability of the most probable one; in [0, 1].
  """

  temperature: float = 1.0
  top_k: int = 0
  top_p: float = 1.0
  min_p: float = 0.0

  def check(self) -> None:
    """Raises if a number is outside of its range.

    Raises:
      ValueError: It names the number, what it must be, and what it is.
    """
    for name, holds, expected in (
      ("temperature", 0 <= self.temperature < math.inf, "finite and >= 0"),
      ("top_k", 0 <= self.top_k < 2**31, "in [0, 2147483648)"),
      ("top_p", 0 < self.top_p <= 1, "in (0, 1]"),
      ("min_p", 0 <= self.min_p <= 1, "in [0, 1]"),
    ):
      if not holds:
        raise ValueError(
          f"{name} must be {expected}, got {getattr(self, name)!r}"
        )


def filter_logits(logits: jax.Array, sampling: Sampling) -> jax.Array:
  """Divides logits by the temperature, and drops improbable tokens.

  The largest logit becomes 0, which changes no probability.

  The steps follow one another: temperature, top-k, top-p, min-p. Each sees the
  probabilities that the one before it has left, normalized again. The most
  probable token is always kept. Of equally probable ones the first counts as
  more probable.

  Args:
    logits: [..., V], float.
    sampling: Its numbers may be traced. A temperature of 0 counts as 1.

  Returns:
    [..., V], float32 or wider; -inf where a token is dropped.

  References:
    Fan et al., 2018 (top-k), https://arxiv.org/abs/1805.04833;
    Holtzman et al., 2020 (top-p), https://arxiv.org/abs/1904.09751;
    Nguyen et al., 2024 (min-p), https://arxiv.org/abs/2407.01082.
  """
  dtype = at_least_float32(logits.dtype)
  temperature = jnp.asarray(sampling.temperature, dtype)
  logits = logits.astype(dtype)
  # At most 0, so that a low temperature does not make them inf.
  logits -= logits.max(-1, keepdims=True)
  scaled = logits / jnp.where(temperature == 0, 1, temperature)
  order = jnp.argsort(scaled, -1, descending=True, stable=True)
  ranked = jnp.take_along_axis(scaled, order, -1)
  rank = jnp.broadcast_to(
    jnp.arange(logits.shape[-1], dtype=jnp.int32), ranked.shape
  )
  top_k = jnp.asarray(sampling.top_k, jnp.int32)
  keep = (rank < top_k) | (top_k == 0)
  p = jax.nn.softmax(jnp.where(keep, ranked, -jnp.inf), -1)
  more_probable = jnp.cumsum(p, -1) - p
  top_p = jnp.asarray(sampling.top_p, dtype)
  # Their sum may round to 1.
  keep &= (more_probable < top_p) | (top_p == 1) | (rank == 0)
  keep &= p >= jnp.asarray(sampling.min_p, dtype) * p[..., :1]
  keep = jnp.put_along_axis(
    jnp.zeros_like(keep), order, keep, -1, inplace=False
  )
  return jnp.where(keep, scaled, -jnp.inf)


def sample(keys: jax.Array, logits: jax.Array, sampling: Sampling) -> jax.Array:
  """Draws one token a row from the filtered distribution.

  Args:
    keys: [B], PRNG keys. What is drawn in a row depends on its key and its
      logits alone.
    logits: [B, V], float.
    sampling: Its numbers may be traced.

  Returns:
    [B], int32.
  """
  filtered = filter_logits(logits, sampling)
  drawn = jax.vmap(jax.random.categorical)(keys, filtered)
  greedy = jnp.asarray(sampling.temperature) == 0
  return jnp.where(greedy, jnp.argmax(logits, -1), drawn).astype(jnp.int32)
