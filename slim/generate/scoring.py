"""The log-likelihood of given tokens, with one state carried through them."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from slim.kernels.support.shapes import check_positive_int
from slim.types import LanguageModel, Params


def score(
  model: LanguageModel,
  params: Params,
  tokens: ArrayLike,
  *,
  chunk_size: int = 512,
  positions: ArrayLike | None = None,
) -> np.ndarray:
  """Computes -log p of each token, given all before it in its document.

  Args:
    model: The model.
    params: Its parameters.
    tokens: [B, T], int, T ≥ 2. The first token is given, and not scored. A
      token beyond the vocabulary makes its score NaN, and may make others NaN.
    chunk_size: C, tokens that are scored at once. A model without a state, such
      as one with LSH attention, needs C ≥ T - 1.
    positions: [B, T], int, of each token in its document, for a model of packed
      documents. None: a sequence is one document.

  Returns:
    [B, T - 1], float32 or wider, nats.

  Raises:
    ValueError: If an argument does not fit, or the model has no positions for
      so many tokens.

  Memory: the state of the model, and the activations of C tokens.
  """
  tokens = np.asarray(tokens)
  if (
    tokens.ndim != 2
    or tokens.shape[1] < 2
    or not np.issubdtype(tokens.dtype, np.integer)
  ):
    raise ValueError(
      "tokens must be integers [B, T] with T >= 2, got "
      f"{tokens.dtype}{list(tokens.shape)}"
    )
  if (tokens < 0).any():
    raise ValueError(f"tokens must not be negative, got {tokens.min()}")
  check_positive_int("chunk_size", chunk_size)
  batch_size, length = tokens.shape[0], tokens.shape[1] - 1
  if model.max_tokens is not None and length > model.max_tokens:
    raise ValueError(
      f"tokens must be at most {model.max_tokens + 1}, as the model has "
      f"positions for {model.max_tokens}, got {length + 1}"
    )
  if model.state_kind == "none" and length > chunk_size:
    raise ValueError(
      f"chunk_size must be at least {length} for {length + 1} tokens, as the "
      f"model has no state, got {chunk_size}"
    )
  state = model.init_state(
    batch_size, max_tokens=length if model.state_kind == "growing" else None
  )
  options = {}
  if positions is not None:
    positions = np.asarray(positions, np.int32)
    if positions.shape != tokens.shape:
      raise ValueError(
        f"positions must have shape {tokens.shape}, got {positions.shape}"
      )
  largest = np.int64(np.iinfo(np.int32).max)  # No vocabulary is so large.
  tokens = np.minimum(tokens, largest).astype(np.int32)
  found = []
  for start in range(0, length, chunk_size):
    end = min(start + chunk_size, length)
    if positions is not None:
      options = {"positions": positions[:, start:end]}
    nats, state = _score(
      model.apply,
      params,
      tokens[:, start:end],
      tokens[:, start + 1 : end + 1],
      state,
      options,
    )
    found.append(nats)
  # Transfer them after the loop, so that the device never waits for the host.
  return np.concatenate(jax.device_get(found), 1)


@partial(jax.jit, static_argnames="apply", donate_argnames="state")
def _score(apply, params, inputs, targets, state, options):
  """Returns nats [B, C] and the state after the inputs."""
  logits, state = apply(params, inputs, state, **options)
  chosen = jnp.take_along_axis(logits, targets[..., None], -1)[..., 0]
  return jax.nn.logsumexp(logits, -1) - chosen, state
