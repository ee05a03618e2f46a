"""Generation: the prompt in chunks, then one token at a time.

A step of generation is the model itself, called with one token and the state of
those before it. What a step costs depends on the state of the model:

  "fixed"    Linear attention and windows: the same time and memory at any
             position.
  "growing"  Softmax attention: the keys and values of all tokens, in a cache
             whose length is rounded up, so that another length compiles
             nothing new. A step reads its blocks up to the position.
  "none"     LSH attention sorts a whole sequence. So each step computes all
             positions again, O(L) work for each of L tokens. The tokens to come
             are zeros then; they may change which earlier tokens a token meets.
"""

from collections.abc import Iterator
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from slim.generate.sampling import Sampling, sample
from slim.kernels.support.random_bits import check_keys, fold_in
from slim.kernels.support.shapes import check_positive_int
from slim.types import LanguageModel, Params, State

# The length of a cache is a multiple of it, unless the model has fewer
# positions.
_CACHE_BLOCK = 256


class _DecodingState(NamedTuple):
  """A generation under way.

  Attributes:
    tokens: [B, L], int32: the prompt, what has been drawn, and zeros.
    state: Of the model, after the tokens before `position`.
    position: [], int32: the token that the model reads next.
  """

  tokens: jax.Array
  state: State | None
  position: jax.Array


def generate(
  model: LanguageModel,
  params: Params,
  prompt: ArrayLike,
  *,
  length: int,
  key: jax.Array,
  sampling: Sampling = Sampling(),  # noqa: B008
  chunk_size: int = 128,
) -> np.ndarray:
  """Continues a prompt.

  Args:
    model: The model.
    params: Its parameters.
    prompt: [B, P], int, one prompt a sample; P ≥ 1.
    length: Tokens to draw.
    key: PRNG key. Sample b draws its token at position s with the key
      fold_in(fold_in(key, b), s), so it does not depend on the other samples,
      except by the rounding of products of another size.
    sampling: How tokens are drawn.
    chunk_size: C, tokens of the prompt in a step of prefill. The last P mod C
      are read one by one, so that another length of prompt compiles nothing.

  Returns:
    [B, length], int32.

  Raises:
    ValueError: If an argument does not fit, or the model has no positions for
      so many tokens.

  Memory: the state of the model, and the activations of C tokens.
  """
  blocks = stream(
    model,
    params,
    prompt,
    length=length,
    key=key,
    sampling=sampling,
    chunk_size=chunk_size,
    block_size=length,
  )
  return np.concatenate(list(blocks), 1)


def stream(
  model: LanguageModel,
  params: Params,
  prompt: ArrayLike,
  *,
  length: int,
  key: jax.Array,
  sampling: Sampling = Sampling(),  # noqa: B008
  chunk_size: int = 128,
  block_size: int = 16,
) -> Iterator[np.ndarray]:
  """Continues a prompt, as `generate`, and yields tokens as they are drawn.

  Args:
    model: The model.
    params: Its parameters.
    prompt: [B, P], int.
    length: Tokens to draw.
    key: PRNG key.
    sampling: How tokens are drawn.
    chunk_size: C, tokens of the prompt in a step of prefill.
    block_size: Tokens that are drawn at a time, by one call of the device.

  Returns:
    An iterator of [B, block_size], int32; the last block may be shorter.

  Raises:
    ValueError: As `generate`, before anything is computed.
  """
  prompt = np.asarray(prompt)
  if (
    prompt.ndim != 2
    or not prompt.size
    or not np.issubdtype(prompt.dtype, np.integer)
  ):
    raise ValueError(
      "prompt must be integers [B, P] with one token or more, got "
      f"{prompt.dtype}{list(prompt.shape)}"
    )
  vocab_size = jax.eval_shape(
    partial(_first_logits, model.apply), params, prompt[:, :1]
  ).shape[-1]
  if prompt.min() < 0 or prompt.max() >= vocab_size:
    raise ValueError(
      f"prompt must have tokens from 0 to {vocab_size - 1}, got tokens from "
      f"{prompt.min()} to {prompt.max()}"
    )
  check_positive_int("length", length)
  check_positive_int("chunk_size", chunk_size)
  check_positive_int("block_size", block_size)
  check_keys("key", key, ())
  sampling.check()
  stop = prompt.shape[1] + length
  if model.max_tokens is not None and stop > model.max_tokens:
    raise ValueError(
      f"length must be at most {max(0, model.max_tokens - prompt.shape[1])}, "
      f"as the model has positions for {model.max_tokens} tokens and the "
      f"prompt has {prompt.shape[1]}, got {length}"
    )
  return _stream(
    model, params, prompt, stop, key, sampling, chunk_size, block_size
  )


def _stream(model, params, prompt, stop, key, sampling, chunk_size, block_size):
  """Reads the prompt, and yields blocks of drawn tokens."""
  batch_size, prompt_length = prompt.shape
  capacity = -(-stop // _CACHE_BLOCK) * _CACHE_BLOCK
  if model.max_tokens is not None:
    capacity = min(capacity, model.max_tokens)
  tokens = np.zeros((batch_size, capacity), np.int32)
  tokens[:, :prompt_length] = prompt
  position = 0
  if model.state_kind == "none":  # Nothing is gained by reading in advance.
    state, position = None, prompt_length - 1
  else:
    growing = model.state_kind == "growing"
    state = model.init_state(
      batch_size, max_tokens=capacity if growing else None
    )
    # One token must be left, to predict the first one that is drawn.
    for _ in range((prompt_length - 1) // chunk_size):
      chunk = tokens[:, position : position + chunk_size]
      state = _read(model.apply, params, chunk, state)
      position += chunk_size
  decoding = _DecodingState(jnp.asarray(tokens), state, jnp.int32(position))
  keys = fold_in(key, jnp.arange(batch_size))
  for start in range(prompt_length, stop, block_size):
    end = min(start + block_size, stop)
    decoding = _draw(
      model.apply,
      params,
      decoding,
      jnp.int32(end),
      jnp.int32(prompt_length),
      keys,
      sampling,
    )
    yield np.asarray(decoding.tokens[:, start:end])


# They take `model.apply`, as a static argument must have a hash, and what a
# model keeps may be a dictionary.
@partial(jax.jit, static_argnums=0)  # Traced once for a model and a B.
def _first_logits(apply, params, tokens):
  """Returns the logits after tokens [B, T] at the start of a sequence."""
  return apply(params, tokens, None)[0]


@partial(jax.jit, static_argnames="apply", donate_argnames="state")
def _read(apply, params, tokens, state):
  """Returns the state after tokens [B, C]."""
  return apply(params, tokens, state)[1]


@partial(jax.jit, static_argnames="apply", donate_argnames="decoding")
def _draw(apply, params, decoding, stop, prompt_length, keys, sampling):
  """Reads tokens, and draws those after the prompt, until there are `stop`."""

  def step(decoding):
    if decoding.state is None:
      logits, state = apply(params, decoding.tokens, None)
      logits = jax.lax.dynamic_index_in_dim(
        logits, decoding.position, 1, keepdims=False
      )
    else:
      token = jax.lax.dynamic_slice_in_dim(
        decoding.tokens, decoding.position, 1, 1
      )
      logits, state = apply(params, token, decoding.state)
      logits = logits[:, 0]
    position = decoding.position + 1
    drawn = sample(fold_in(keys, position), logits, sampling)
    given = jax.lax.dynamic_index_in_dim(
      decoding.tokens, position, 1, keepdims=False
    )
    token = jnp.where(position < prompt_length, given, drawn)
    tokens = jax.lax.dynamic_update_index_in_dim(
      decoding.tokens, token, position, 1
    )
    return _DecodingState(tokens, state, position)

  return jax.lax.while_loop(
    lambda decoding: decoding.position < stop - 1, step, decoding
  )
