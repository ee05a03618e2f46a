"""Certify the model of a config, with the gradient that it trains with."""

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from slim import config as config_lib
from slim.certify.certificate import Certificate, Check
from slim.certify.certify_step import certify_calls, chunk_sizes, to_float64
from slim.certify.checks import EXACT, check_gradients
from slim.certify.gradients import Results, ScanCall, compile_fast
from slim.kernels.support.random_bits import split
from slim.runs.stages import stage
from slim.targets import HERE, Target
from slim.training import build, shapes
from slim.training.gradients import (
  documents_of,
  make_step,
  make_value_and_grad,
  max_tokens_of,
)
from slim.types import Batch, LanguageModel

_BATCH_SIZE = 2
_NUM_TOKENS = 100  # Enough for three chunk sizes, most with a short chunk.
_TOKENS_BEFORE = 16  # Make the initial state nonzero.
_DOCUMENT_LENGTH = 37  # Where documents are packed; starts within chunks.


def certify_config(
  config: ml_collections.ConfigDict, target: Target = HERE
) -> Certificate:
  """Checks the gradient that a config trains with; no data is read.

  Tokens are random, and parameters come from the seed of the config. Dropout is
  applied as in training.

  Args:
    config: All settings.
    target: What is compiled for to see how memory grows; this machine need not
      have it.

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
      "config.data.sequence_length must be at least 15 to be cut into chunks, "
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
  state = model.init_state(
    _BATCH_SIZE,
    compensated=policy == "rewind",
    max_tokens=max_tokens_of(model, before + length),
  )
  _, state = jax.jit(model.apply)(params, tokens[:, :before], state, keys)
  inputs, targets = tokens[:, before:-1], tokens[:, before + 1 :]
  batch = Batch(inputs, targets, jnp.ones(inputs.shape, jnp.float32))
  if shapes.abstract_batch(config).positions is not None:
    positions = jnp.arange(length, dtype=jnp.int32) % _DOCUMENT_LENGTH
    positions = jnp.broadcast_to(positions, inputs.shape)
    batch = batch._replace(positions=positions)

  step, rewind = make_step(model, keys)
  call = ScanCall(step, params, state, batch, 1, policy, rewind, model.kept)
  step, rewind = make_step(model_float64, keys)
  call_float64 = to_float64(call._replace(step=step, rewind=rewind))

  def token_outputs(params, state, batch):
    logits, state = model_float64.apply(
      params, batch.inputs, state, keys, **documents_of(batch)
    )
    return state, logits

  with jax.default_matmul_precision(config.matmul_precision):
    certificate = certify_calls(
      call, call_float64, token_outputs, config.model.dtype, target
    )
    with stage("checking what training calls"):
      training = _check_training(model_float64, call_float64, keys)
  return Certificate((*certificate.checks, *training))


def _check_training(
  model: LanguageModel, call: ScanCall, keys: jax.Array | None
) -> list[Check]:
  """Checks the function that training calls, from the initial state on.

  Args:
    model: The model in float64.
    call: The call in float64.
    keys: PRNG keys of the sequences, if anything is random.

  Returns:
    The check of the worst parameter.
  """
  _, chunk_size, _ = chunk_sizes(call.length)

  def differentiate(method: str) -> Results:
    value_and_grad = make_value_and_grad(
      model, method=method, chunk_size=chunk_size, policy=call.policy
    )
    _, gradients = compile_fast(value_and_grad)(call.params, call.xs, keys)
    return Results((), (), {"params in training": gradients})

  with jax.enable_x64(True):
    return list(
      check_gradients(
        "float64",
        differentiate("full"),
        differentiate("slim"),
        chunk_size,
        lambda *_: EXACT,
        "slim.kernels.sum_and_grad differs from jax.value_and_grad for a step "
        "that passes all other checks: report it",
      )
    )
