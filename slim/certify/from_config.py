"""Certifies the model of a config, as it trains."""

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from slim import config as config_lib
from slim.certify.certificate import Certificate
from slim.certify.certify_step import (
  certify_cases,
  widen,
)
from slim.certify.gradients import Case
from slim.training import build
from slim.training.gradients import make_step
from slim.types import Batch

_BATCH_SIZE = 2
_TOKENS = 100  # Enough for three cuts; what is wrong at all is wrong there.
_TOKENS_BEFORE = 16  # What the initial state has seen, or it would be of zeros.


def certify_config(config: ml_collections.ConfigDict) -> Certificate:
  """Checks the gradient that a config trains with; no data is read.

  Random tokens and the weights of the config's seed. With dropout, if it has
  any.

  Args:
    config: All settings.

  Returns:
    The certificate.

  Raises:
    ValueError: If a setting does not fit, or the gradient is not SLiM's.
  """
  config_lib.validate(config)
  if not config.gradient.method.endswith("slim"):
    raise ValueError(
      "config.gradient.method must be 'slim' or 'full_then_slim' to have "
      f"chunks that can be certified, got {config.gradient.method!r}"
    )
  before = min(_TOKENS_BEFORE, config.data.sequence_length // 4)
  length = min(_TOKENS, config.data.sequence_length - before)
  if length < 12:
    raise ValueError(
      "config.data.sequence_length must be at least 16 to be cut into chunks, "
      f"got {config.data.sequence_length}"
    )
  experiment = build.create_experiment(config)
  model = experiment.model
  wide_config = config.copy_and_resolve_references()
  wide_config.model.dtype = "float64"
  wide_model = build.create_model(wide_config)

  tokens = jnp.asarray(
    np.random.default_rng(0).integers(
      0, config.data.vocab_size, (_BATCH_SIZE, before + length + 1)
    ),
    jnp.int32,
  )
  keys = jax.random.split(jax.random.key(1), _BATCH_SIZE)
  keys = keys if model.is_random else None
  policy = config.gradient.policy
  params = jax.jit(model.init)(experiment.init_key)
  state = model.init_state(_BATCH_SIZE, compensated=policy == "rewind")
  _, state = jax.jit(model.apply)(params, tokens[:, :before], state, keys)
  inputs, targets = tokens[:, before:-1], tokens[:, before + 1 :]
  batch = Batch(inputs, targets, jnp.ones(inputs.shape, jnp.float32))

  step, rewind = make_step(model, keys)
  case = Case(step, params, state, batch, 1, policy, rewind)
  step, rewind = make_step(wide_model, keys)
  wide_case = widen(case._replace(step=step, rewind=rewind))

  def look(params, state, batch):
    logits, state = wide_model.apply(params, batch.inputs, state, keys)
    return state, logits

  with jax.default_matmul_precision(config.matmul_precision):
    return certify_cases(case, wide_case, look, config.model.dtype)
