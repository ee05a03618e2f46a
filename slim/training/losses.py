"""What a prediction is scored by: sums over tokens, never means."""

import jax
import jax.numpy as jnp

from slim.kernels.support.dtypes import at_least_float32
from slim.types import Sums


def cross_entropy_sums(
  logits: jax.Array, targets: jax.Array, weights: jax.Array
) -> Sums:
  """Sums the cross-entropy and the hits of a piece of the batch.

  nll = Σ w · (logsumexp(logits) - logits[target]).

  A token of weight 0 adds nothing to the sums or their gradients, whatever its
  target and its logits are: -100 and NaN are ignored there.

  Args:
    logits: [B, T, vocab_size], float.
    targets: [B, T], int. In [0, vocab_size) where the weight is not 0: another
      target makes `nll` NaN, and is no hit.
    weights: [B, T], float32. Constants to the derivative.

  Returns:
    Sums of scalars, float32 or wider.

  Memory beyond inputs and outputs: O(B·T·vocab_size).
  """
  logits = logits.astype(at_least_float32(logits.dtype))
  weights = jax.lax.stop_gradient(weights).astype(logits.dtype)
  counts = weights != 0
  # Beyond the vocabulary the array is filled with NaN; before it, it wraps.
  index = jnp.where(targets < 0, logits.shape[-1], targets)[..., None]
  chosen = jnp.take_along_axis(logits, index, axis=-1, mode="fill")[..., 0]
  # Not its result alone: of NaN, the gradient is NaN even times 0.
  hidden = jnp.where(counts[..., None], logits, 0)
  nll = jnp.where(counts, jax.nn.logsumexp(hidden, axis=-1) - chosen, 0)
  hits = jnp.argmax(logits, axis=-1) == targets
  return Sums(
    nll=jnp.sum(weights * nll),
    correct=jnp.sum(jnp.where(hits, weights, 0)),
    weight=jnp.sum(weights),
  )
