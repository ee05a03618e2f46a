"""From settings to a language model."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from slim.kernels.support.random_bits import fold_in
from slim.kernels.support.shapes import check_positive_int
from slim.models.block import Block
from slim.models.language_model import make_language_model
from slim.models.layers import MLP, Embedding, Logits
from slim.models.mixers import MIXERS
from slim.models.network import Network
from slim.models.norms import LayerNorm
from slim.models.sequence_axis import SequenceAxis
from slim.models.settings import BOUNDED_POSITIONS, ModelSettings
from slim.settings import Setting, SettingError, list_settings
from slim.types import LanguageModel


def list_model_settings() -> list[Setting]:
  """Lists all settings of models: those of all, and of each mixer.

  Returns:
    Their declarations; those of the mixers come after `attention`.
  """
  found = []
  for declaration in list_settings(ModelSettings):
    found.append(declaration)
    if declaration.name == "attention":
      for settings in _mixer_settings():
        found += list_settings(settings)
  return found


def count_stacks(**settings: Any) -> int:
  """Counts the stacks of equal layers that a model has; 0 for none.

  Args:
    **settings: As for `create_model`.

  Returns:
    The number of stacks: see `slim.models.stacking`.
  """
  model, _ = _read_settings(settings)
  return model.num_blocks if model.num_blocks < model.num_layers else 0


def create_model(
  *,
  vocab_size: int,
  max_positions: int | None = None,
  frozen_key: jax.Array | None = None,
  sequence_axis: str | None = None,
  packed: bool = False,
  **settings: Any,
) -> LanguageModel:
  """Builds a language model; the defaults are the SLiM paper's Performer.

  Args:
    vocab_size: Number of tokens in the vocabulary.
    max_positions: Tokens that "learned" and "axial" positions are for, at most;
      others need none.
    frozen_key: PRNG key of constants that are random but not learned: the
      projections of "favor", and the rotations of "lsh" where nothing is to be
      random. An equal key makes an equal model.
    sequence_axis: A mesh axis whose devices share the tokens of a sequence. All
      functions of the model but `init` and `init_state` are then for
      `jax.shard_map`, and take the tokens of one device, in the `token_order`
      of the model.
    packed: Whether a sequence may have several documents, which the
      `positions` of a batch keep apart.
    **settings: The fields of `ModelSettings` and of the settings of the mixers,
      by their names: see `list_model_settings`.

  Returns:
    LanguageModel.

  Raises:
    ValueError: If a setting does not exist, or two do not fit. It names the
      setting, what it must be, and what it is.

  References:
    Likhosherstov et al., 2021 (SLiM), https://arxiv.org/abs/2012.11346;
    Vaswani et al., 2017, https://arxiv.org/abs/1706.03762;
    Kitaev et al., 2020 (Reformer), https://arxiv.org/abs/2001.04451.
  """
  model, own_settings = _read_settings(settings)
  check_positive_int("vocab_size", vocab_size)
  is_bounded = model.positions in BOUNDED_POSITIONS
  if is_bounded:
    check_positive_int("max_positions", max_positions)
  dtype = jnp.dtype(model.dtype)
  blocks = tuple(
    Block(
      MIXERS[name].create(model, own_settings[MIXERS[name].settings]),
      MLP(model.mlp_width or 4 * model.width, dtype),
      model.mlp_chunk_size,
      model.norm,
      dtype,
    )
    for name in model.attentions[: model.num_blocks]
  )
  frozen_keys = None
  if any(block.attention.needs_frozen_key for block in blocks):
    if frozen_key is None:
      raise SettingError(
        "frozen_key",
        "must be a PRNG key for attention='lsh' and for feature_map='favor', "
        "got None",
      )
    frozen_keys = [fold_in(frozen_key, i) for i in range(model.num_layers)]
  order = _token_order(blocks)
  axis = None
  if sequence_axis is not None:
    if order is None:
      raise SettingError(
        "attention",
        "must be 'linear' in all layers, or softmax in all, for a sequence "
        f"that devices share, got {model.attention!r}",
      )
    axis = SequenceAxis(sequence_axis, order)
  if packed:
    _check_packed(model, blocks, axis)
  network = Network(
    embedding=Embedding(
      vocab_size,
      model.width,
      model.positions,
      max_positions or 0,
      model.tied_output,
      dtype,
    ),
    blocks=blocks,
    num_layers=model.num_layers,
    is_reversible=model.reversible,
    final_norm=LayerNorm(dtype) if model.final_norm else None,
    logits=Logits(vocab_size, dtype),
    tied_output=model.tied_output,
    dropout=model.dropout,
    dtype=dtype,
  )
  return make_language_model(
    network,
    frozen_keys,
    max_positions if is_bounded else None,
    order,
    axis,
    packed=packed,
  )


def _check_packed(model, blocks, axis):
  """Raises SettingError unless all layers keep documents apart."""
  for name, block in zip(model.attentions, blocks, strict=False):
    if not block.attention.has_documents:
      raise SettingError(
        "attention",
        f"must not have {name!r} for packed documents, because it mixes tokens "
        f"of different documents, got {model.attention!r}",
      )
  if axis is not None:
    raise SettingError(
      "attention",
      "cannot keep packed documents apart in a sequence that devices share: "
      "pack none, or leave out the sequence axis of the mesh",
    )


def _token_order(blocks):
  """The order of tokens that all mixers can have, or None."""
  orders = {block.attention.token_order for block in blocks}
  return orders.pop() if len(orders) == 1 else None


def _mixer_settings() -> list[type]:
  """The settings dataclasses of all mixers, each once."""
  return list(dict.fromkeys(kind.settings for kind in MIXERS.values()))


def _read_settings(settings):
  """Makes and checks the settings of the model and of each mixer."""
  rest = dict(settings)

  def take(declared):
    names = [field.name for field in dataclasses.fields(declared)]
    made = declared(**{k: rest.pop(k) for k in names if k in rest})
    made.check()
    return made

  model = take(ModelSettings)
  own_settings = {declared: take(declared) for declared in _mixer_settings()}
  for name in rest:
    raise SettingError(name, "is no setting of a model")
  for name in model.attentions:
    if name not in MIXERS:
      raise SettingError(
        "attention",
        f"must be one of {tuple(MIXERS)}, or some of them with commas between "
        f"them, got {model.attention!r}",
      )
  return model, own_settings
