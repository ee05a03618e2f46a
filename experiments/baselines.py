"""What a JAX user writes without slim: a scan over checkpointed chunks."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from slim.losses import cross_entropy_sums
from slim.types import Batch, LanguageModel, Sums


def scan_checkpoint_value_and_grad(
  model: LanguageModel, chunk_size: int
) -> Callable[..., tuple[Sums, Any]]:
  """Makes the gradient through `lax.scan(jax.checkpoint(step))`.

  Args:
    model: The model.
    chunk_size: C; divides T here, as padding is the user's to write.

  Returns:
    `value_and_grad(params, batch) -> (Sums, gradients of Sums.nll)`.
  """

  def value_and_grad(params, batch: Batch):
    def cut(x):
      x = x.reshape(x.shape[0], -1, chunk_size)
      return jnp.moveaxis(x, 1, 0)

    def nll(params):
      @jax.checkpoint
      def step(state, chunk):
        logits, state = model.apply(params, chunk.inputs, state)
        return state, cross_entropy_sums(logits, chunk.targets, chunk.weights)

      state = model.init_state(batch.inputs.shape[0])
      _, sums = jax.lax.scan(step, state, jax.tree.map(cut, batch))
      sums = jax.tree.map(jnp.sum, sums)
      return sums.nll, sums

    (_, sums), gradients = jax.value_and_grad(nll, has_aux=True)(params)
    return sums, gradients

  return value_and_grad
