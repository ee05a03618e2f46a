"""The Transformer: a language model of softmax or LSH attention."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from slim.kernels.support.random_bits import fold_in
from slim.models.mixers.softmax import KVCache
from slim.models.network import Network
from slim.types import LanguageModel


class TransformerState(NamedTuple):
  """All that the model remembers of the tokens so far.

  Attributes:
    position: [], int32: how many tokens there were.
    layers: One KVCache a layer.
  """

  position: jax.Array
  layers: tuple[KVCache, ...]


def create_transformer(
  network: Network,
  *,
  attentions: tuple[str, ...],
  num_heads: int,
  head_dim: int,
  hash_keys: list[jax.Array | None],
) -> LanguageModel:
  """Makes a language model of a network of softmax and LSH attention.

  Args:
    network: The modules.
    attentions: What attention each layer has.
    num_heads: H.
    head_dim: K.
    hash_keys: One a layer, a PRNG key: of the hashes of LSH where nothing is to
      be random.

  Returns:
    LanguageModel, whose state grows with the tokens it has room for, or is
    None: then a sequence is given whole, as LSH attention always needs it.
  """
  num_layers = len(attentions)

  def init_state(batch_size, *, compensated=False, max_tokens=None):
    del compensated  # Nothing is summed.
    if max_tokens is None:
      return None
    if "lsh" in attentions:
      raise ValueError(
        "max_tokens must be None for LSH attention, which sorts the whole "
        f"sequence and remembers nothing, got {max_tokens}"
      )
    shape = (batch_size, max_tokens, num_heads, head_dim)

    def empty():
      return jnp.zeros(shape, network.dtype)

    layers = tuple(KVCache(empty(), empty()) for _ in attentions)
    return TransformerState(jnp.int32(0), layers)

  whole = TransformerState(jnp.int32(0), (None,) * num_layers)

  def contexts(batch_size, state, keys):
    position, caches = state
    for i, (attention, cache) in enumerate(
      zip(attentions, caches, strict=True)
    ):
      if attention != "lsh":
        yield cache, position
      elif keys is None:
        yield jnp.broadcast_to(hash_keys[i], batch_size)
      else:  # Behind the sites of dropout, which are 0 to 2 num_layers.
        site = 1 + 2 * num_layers + i
        yield fold_in(keys, site)

  def init(key):
    return network.init(key, list(contexts(1, whole, None)))

  def apply(params, tokens, state, keys=None, *, remat=False):
    batch_size, length = tokens.shape
    before = whole if state is None else state
    logits, layers = network.apply(
      params,
      tokens,
      before.position,
      keys,
      list(contexts(batch_size, before, keys)),
      remat=remat,
    )
    if state is None:
      return logits, None
    end = state.position + length
    return logits, TransformerState(end, tuple(layers))

  return LanguageModel(
    init,
    init_state,
    apply,
    None,
    is_random=network.dropout > 0 or "lsh" in attentions,
  )
