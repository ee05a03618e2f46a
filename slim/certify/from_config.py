"""Certify the model of a config, with the gradient that it trains with."""

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from slim import config as config_lib
from slim.certify.certificate import Certificate
from slim.certify.certify_step import certify_calls, to_float64
from slim.certify.gradients import ScanCall
from slim.kernels.support.random_bits import split
from slim.training import build
from slim.training.gradients import make_step
from slim.types import Batch

_BATCH_SIZE = 2
_NUM_TOKENS = 100  # Enough for three chunk sizes, most with a short chunk.
_TOKENS_BEFORE = 16  # Make the initial state nonzero.


def certify_config(config: ml_collections.ConfigDict) -> Certificate:
  """Checks the gradient that a config trains with; no data is read.

  Tokens are random, and parameters come from the seed of the config. Dropout is
  applied as in training.

  Args:
    config: All settings.

  Returns:
    The certificate.

  Raises:
    ValueError: If a setting does not fit, or the method has no chunks.
  """
  config_lib.validate(config)
  if not config.gradient.method.endswith("slim"):
    raise ValueError(
      "config.gradient.method must be 'slim' or 'full_then_slim' to have "
      f"chunks that can be certified, got {config.gradient.method!r}"
    )
  before = min(_TOKENS_BEFORE, config.data.sequence_length // 4)
  length = min(_NUM_TOKENS, config.data.sequence_length - before)
  if length < 12:
    raise ValueError(
      "config.data.sequence_length must be at least 16 to be cut into chunks, "
      f"got {config.data.sequence_length}"
    )
  experiment = build.create_experiment(config)
  model = experiment.model
  config_float64 = config.copy_and_resolve_references()
  config_float64.model.dtype = "float64"
  model_float64 = build.create_model(config_float64)

  tokens = jnp.asarray(
    np.random.default_rng(0).integers(
      0, config.data.vocab_size, (_BATCH_SIZE, before + length + 1)
    ),
    jnp.int32,
  )
  keys = split(jax.random.key(1), _BATCH_SIZE) if model.is_random else None
  policy = config.gradient.policy
  params = jax.jit(model.init)(experiment.init_key)
  state = model.init_state(_BATCH_SIZE, compensated=policy == "rewind")
  _, state = jax.jit(model.apply)(params, tokens[:, :before], state, keys)
  inputs, targets = tokens[:, before:-1], tokens[:, before + 1 :]
  batch = Batch(inputs, targets, jnp.ones(inputs.shape, jnp.float32))

  step, rewind = make_step(model, keys)
  call = ScanCall(step, params, state, batch, 1, policy, rewind)
  step, rewind = make_step(model_float64, keys)
  call_float64 = to_float64(call._replace(step=step, rewind=rewind))

  def token_outputs(params, state, batch):
    logits, state = model_float64.apply(params, batch.inputs, state, keys)
    return state, logits

  with jax.default_matmul_precision(config.matmul_precision):
    return certify_calls(call, call_float64, token_outputs, config.model.dtype)
