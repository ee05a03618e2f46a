"""The loss and the accuracy, as sums over tokens."""

import chex
import jax
import jax.numpy as jnp

from slim.kernels.support.dtypes import at_least_float32
from slim.types import Sums


def cross_entropy_sums(
  logits: jax.Array, targets: jax.Array, weights: jax.Array
) -> Sums:
  """Sums the cross-entropy and the correct predictions over tokens.

  nll = Σ w · (logsumexp(logits) - logits[target]).

  A token of weight 0 adds nothing to the sums or their gradients, even if its
  target is -100 or its logits are NaN.

  Args:
    logits: [B, T, vocab_size], float.
    targets: [B, T], int, in [0, vocab_size). Another target of nonzero weight
      makes `nll` NaN, and counts as incorrect.
    weights: [B, T], float32. They are not differentiated.

  Returns:
    Sums of scalars, float32 or wider.

  Memory beyond inputs and outputs: O(B·T·vocab_size).
  """
  chex.assert_equal_shape([targets, weights])
  chex.assert_equal_shape_prefix([logits, targets], targets.ndim)
  logits = logits.astype(at_least_float32(logits.dtype))
  weights = jax.lax.stop_gradient(weights).astype(logits.dtype)
  counts = weights != 0
  # mode="fill" returns NaN beyond the vocabulary, but negative indices wrap.
  index = jnp.where(targets < 0, logits.shape[-1], targets)[..., None]
  chosen = jnp.take_along_axis(logits, index, axis=-1, mode="fill")[..., 0]
  # Mask the input, too: the gradient of logsumexp at NaN is NaN, even times 0.
  hidden = jnp.where(counts[..., None], logits, 0)
  nll = jnp.where(counts, jax.nn.logsumexp(hidden, axis=-1) - chosen, 0)
  hits = jnp.argmax(logits, axis=-1) == targets
  return Sums(
    nll=jnp.sum(weights * nll),
    correct=jnp.sum(jnp.where(hits, weights, 0)),
    weight=jnp.sum(weights),
  )
