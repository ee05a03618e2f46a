"""Language models, as plain functions over Flax Linen modules."""

from typing import Any

import jax.numpy as jnp
from flax import linen as nn

from slim.kernels import sample_projection
from slim.kernels.support.random_bits import fold_in
from slim.models.block import Block
from slim.models.layers import MLP, Embedding, Logits
from slim.models.mixers.linear import LinearAttention
from slim.models.mixers.lsh import LSHAttention
from slim.models.mixers.softmax import SoftmaxAttention
from slim.models.network import Network
from slim.models.norms import LayerNorm
from slim.models.performer import create_performer
from slim.models.settings import ModelSettings
from slim.models.transformer import create_transformer
from slim.types import LanguageModel

__all__ = ["ModelSettings", "create_model"]


def create_model(**settings: Any) -> LanguageModel:
  """Builds a language model; the defaults are the SLiM paper's Performer.

  Args:
    **settings: The attributes of `ModelSettings`, by their names.

  Returns:
    LanguageModel. A Performer has a `rewind`, unless `feature_map` is "favor"
    and `qk_norm` False.

  Raises:
    ValueError: If a setting is not one of those there, or two do not fit.

  References:
    Likhosherstov et al., 2021 (SLiM), https://arxiv.org/abs/2012.11346;
    Vaswani et al., 2017, https://arxiv.org/abs/1706.03762;
    Kitaev et al., 2020 (Reformer), https://arxiv.org/abs/2001.04451.
  """
  s = ModelSettings(**settings)
  s.check()
  network = _create_network(s)
  head_dim = s.width // s.num_heads
  keys = [None] * s.num_layers
  if s.is_drawn:
    keys = [fold_in(s.constant_key, i) for i in range(s.num_layers)]
  if not s.is_linear:
    return create_transformer(
      network,
      attentions=s.attentions,
      num_heads=s.num_heads,
      head_dim=head_dim,
      hash_keys=keys,
    )
  num_features = head_dim if s.num_features is None else s.num_features

  def project(key):
    if key is None:
      return None
    return sample_projection(
      key, num_features, head_dim, orthogonal=s.orthogonal_features
    )

  return create_performer(
    network,
    num_heads=s.num_heads,
    num_features=num_features,
    head_dim=head_dim,
    projections=[project(key) for key in keys],
    can_rewind=s.qk_norm or s.feature_map != "favor",
  )


def _create_network(s: ModelSettings) -> Network:
  """Creates the modules."""
  dtype = jnp.dtype(s.dtype)
  return Network(
    embedding=Embedding(
      s.vocab_size,
      s.width,
      s.positions,
      s.max_positions or 0,
      s.tied_output,
      dtype,
    ),
    blocks=tuple(
      Block(
        _create_attention(name, s, dtype),
        MLP(s.mlp_width, dtype),
        s.mlp_chunk_size,
        s.norm,
        dtype,
      )
      for name in s.attentions
    ),
    is_reversible=s.reversible,
    final_norm=LayerNorm(dtype) if s.final_norm else None,
    logits=Logits(s.vocab_size, dtype),
    tied_output=s.tied_output,
    dropout=s.dropout,
    dtype=dtype,
  )


def _create_attention(name: str, s: ModelSettings, dtype: Any) -> nn.Module:
  """Creates the attention of one layer, by its name."""
  of_all = {
    "num_heads": s.num_heads,
    "qk_norm": s.qk_norm,
    "output_projection": s.output_projection,
    "dtype": dtype,
  }
  if name == "linear":
    return LinearAttention(feature_map=s.feature_map, **of_all)
  rotary = s.positions == "rotary"
  if name == "lsh":
    return LSHAttention(
      bucket_size=s.bucket_size,
      num_hashes=s.num_hashes,
      hash_rounds=s.hash_rounds,
      heads_at_once=s.heads_at_once,
      rotary=rotary,
      **of_all,
    )
  return SoftmaxAttention(
    attention=name, window=s.window, rotary=rotary, **of_all
  )
