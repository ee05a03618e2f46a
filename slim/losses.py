"""What a prediction is scored by: sums over tokens, never means."""

import jax
import jax.numpy as jnp

from slim.kernels.dtypes import at_least_float32
from slim.types import Sums


def cross_entropy_sums(
  logits: jax.Array, targets: jax.Array, weights: jax.Array
) -> Sums:
  """Sums the cross-entropy and the hits of a piece of the batch.

  nll = Σ w · (logsumexp(logits) - logits[target]).

  Args:
    logits: [B, T, vocab_size], float.
    targets: [B, T], int32.
    weights: [B, T], float32. Constants to the derivative.

  Returns:
    Sums of scalars, float32 or wider.

  Memory beyond inputs and outputs: O(B·T·vocab_size).
  """
  logits = logits.astype(at_least_float32(logits.dtype))
  weights = jax.lax.stop_gradient(weights).astype(logits.dtype)
  chosen = jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
  nll = jax.nn.logsumexp(logits, axis=-1) - chosen
  hits = jnp.argmax(logits, axis=-1) == targets
  return Sums(
    nll=jnp.sum(weights * nll),
    correct=jnp.sum(jnp.where(hits, weights, 0)),
    weight=jnp.sum(weights),
  )
