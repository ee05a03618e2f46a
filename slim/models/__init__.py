"""Language models, as plain functions over Flax Linen modules."""

from functools import partial

import jax
import jax.numpy as jnp

from slim.kernels import FEATURE_MAPS, rewind_prefix_sums, sample_projection
from slim.kernels.shapes import check_positive_int
from slim.models.attention import init_attention_state
from slim.models.layers import Embedding, Logits, wide
from slim.models.performer import NORMS, Block, Performer, PerformerState
from slim.types import LanguageModel

__all__ = ["create_model"]

DTYPES = ("float32", "float64", "bfloat16")


def create_model(
  *,
  vocab_size: int,
  width: int,
  num_layers: int,
  num_heads: int,
  mlp_width: int,
  feature_map: str = "square",
  num_features: int | None = None,
  orthogonal_features: bool = True,
  feature_key: jax.Array | None = None,
  qk_norm: bool = False,
  norm: str = "output",
  output_projection: bool = False,
  dropout: float = 0.0,
  dtype: str = "float32",
) -> LanguageModel:
  """Builds the Performer language model; the defaults are the SLiM paper's.

  Args:
    vocab_size: Number of tokens in the vocabulary.
    width: D.
    num_layers: Layers of attention and MLP.
    num_heads: H; the heads have K = V = D / H.
    mlp_width: F; the paper has 4 D.
    feature_map: A name in `slim.kernels.FEATURE_MAPS`, which have M = K; or
      "favor": positive random features, which approximate softmax attention.
    num_features: M, for "favor" alone; None: K.
    orthogonal_features: For "favor": see `sample_projection`.
    feature_key: PRNG key, for "favor" alone. The projections of the layers are
      functions of it and no parameters: an equal key makes an equal model.
    qk_norm: Whether queries and keys have a fixed length; see
      `LinearAttention`. It keeps the sums of "favor" from growing by orders of
      magnitude, without which they cannot be undone, and its estimates good.
    norm: Where LayerNorm stands: "pre" x + f(LN(x)), "post" LN(x + f(x)),
      "output" x + LN(f(x)). The paper's Copying task has "pre".
    output_projection: Whether a linear map follows the heads.
    dropout: Rate, on the embedding and on what each sublayer adds.
    dtype: Of the computation: "float32", "float64" or "bfloat16". Parameters,
      states and logits are float32 or wider.

  Returns:
    LanguageModel. It has a `rewind`, unless `feature_map` is "favor" and
    `qk_norm` False.

  Raises:
    ValueError: If a setting is not one of those above, or H does not divide D.

  References:
    Likhosherstov et al., 2021 (SLiM), https://arxiv.org/abs/2012.11346.
  """
  for name, value, known in (
    ("feature_map", feature_map, (*FEATURE_MAPS, "favor")),
    ("norm", norm, NORMS),
    ("dtype", dtype, DTYPES),
  ):
    if value not in known:
      raise ValueError(f"{name} must be one of {known}, got {value!r}")
  for name, value in (
    ("vocab_size", vocab_size),
    ("width", width),
    ("num_layers", num_layers),
    ("num_heads", num_heads),
    ("mlp_width", mlp_width),
  ):
    check_positive_int(name, value)
  # Of 4, as half of the width is sinusoids, and half of those are cosines.
  if width % num_heads or width % 4:
    raise ValueError(
      "width must be a multiple of num_heads and of 4, got "
      f"width={width}, num_heads={num_heads}"
    )
  if not isinstance(dropout, int | float) or not 0 <= dropout < 1:
    raise ValueError(f"dropout must be in [0, 1), got {dropout!r}")
  dtype = jnp.dtype(dtype)
  head_dim = width // num_heads
  if feature_map != "favor" and num_features is not None:
    raise ValueError(
      f"num_features must be None for feature_map={feature_map!r}, whose "
      f"features are as many as a head is wide, got {num_features}"
    )
  num_features = head_dim if num_features is None else num_features
  projections = [None] * num_layers
  if feature_map == "favor":
    if feature_key is None:
      raise ValueError(
        "feature_key must be a PRNG key for feature_map='favor', got None"
      )
    projections = [
      sample_projection(
        jax.random.fold_in(feature_key, layer),
        num_features,
        head_dim,
        orthogonal=orthogonal_features,
      )
      for layer in range(num_layers)
    ]
  network = Performer(
    embedding=Embedding(vocab_size, width, dtype),
    block=Block(
      num_heads, mlp_width, feature_map, qk_norm, norm, output_projection, dtype
    ),
    logits=Logits(vocab_size, dtype),
    dropout=dropout,
    projections=tuple(projections),
  )

  def init_state(batch_size, compensated=False):
    make = partial(
      init_attention_state,
      batch_size,
      num_heads,
      num_features,
      head_dim,
      dtype=wide(dtype),
      compensated=compensated,
    )
    return PerformerState(
      jnp.int32(0), tuple(make() for _ in range(num_layers))
    )

  def init(key):
    return network.init(key, init_state(1))

  def apply(params, tokens, state, dropout_keys=None, *, remat=False):
    _, logits, after = network.apply(
      params, tokens, state, dropout_keys, _keep, remat
    )
    return logits, after

  def rewind(params, tokens, state_after, dropout_keys=None):
    position = state_after.position - tokens.shape[1]
    return network.apply(
      params,
      tokens,
      state_after._replace(position=position),
      dropout_keys,
      rewind_prefix_sums,
      remat=False,
    )

  can_rewind = qk_norm or feature_map != "favor"
  return LanguageModel(init, init_state, apply, rewind if can_rewind else None)


def _keep(state, update):
  del update
  return state
