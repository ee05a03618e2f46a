"""Modes of JAX that a whole training step may run in, for every family."""

import jax
import jax.numpy as jnp
import pytest

from slim.training import build, steps
from slim.training.evaluation import make_evaluation_step
from slim.types import Batch
from tests.helpers import SMALL, make_config
from tests.models.equations import equations_of

DEEP = dict(
  gradient__method="full",
  model__norm="pre",
  model__final_norm=True,
  model__output_projection=True,
)
MODELS = {
  "linear": dict(gradient__chunk_size=4, model__feature_map="relu"),
  "favor": dict(
    gradient__chunk_size=4,
    gradient__policy="sqrt",
    model__feature_map="favor",
    model__qk_norm=True,
    model__positions="learned",
  ),
  "gated": dict(
    gradient__chunk_size=4,
    model__attention="gdn,kda,ssd,gla,retention,delta",
    model__num_layers=6,
  ),
  "transformer": DEEP
  | dict(
    model__attention="chunked_softmax",
    model__positions="rotary",
    model__tied_output=True,
  ),
  "reformer": DEEP
  | dict(
    model__attention="local,lsh",
    model__num_layers=2,
    model__bucket_size=8,
    model__window=8,
    model__reversible=True,
    model__mlp_chunk_size=8,
    model__positions="axial",
  ),
}


def make_training_step(model, dtype):
  """Makes a step from the initialisation to the evaluation, and its inputs."""
  config = make_config(
    **SMALL | MODELS[model],
    model__dtype=dtype,
    model__dropout=0.1,
    train__accumulation_steps=2,
  )

  def step(key, tokens):
    experiment = build.create_experiment(config)
    (gradient_step,) = experiment.gradient_steps.values()
    update_step = steps.make_update_step(experiment.optimizer)
    evaluation_step = make_evaluation_step(experiment.model, len(tokens[0]))
    state = steps.init_train_state(
      experiment.model.init(key), experiment.optimizer
    )
    batch = Batch(tokens[:, :-1], tokens[:, 1:], jnp.ones_like(tokens[:, 1:]))
    batch = batch._replace(weights=batch.weights.astype(jnp.float32))
    sums, gradients = gradient_step(state.params, batch, state.step)
    state, norm = update_step(state, gradients, sums)
    start = experiment.model.init_state(len(tokens))
    return evaluation_step(state.params, start, batch)[0], sums, state, norm

  return step, (jax.random.key(0), jnp.zeros((4, 17), jnp.int32))


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize(
  "dtype", ["bfloat16", pytest.param("float32", marks=pytest.mark.slow)]
)
def test_strict_promotion(model, dtype):
  """An operation of ours on two dtypes or ranks would be refused."""
  step, args = make_training_step(model, dtype)
  with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
    equations = equations_of(step, *args)
  # Such as the gradient of a bias, over all tokens. XLA might round each sum.
  assert not [
    x
    for x in equations
    if x.primitive.name == "reduce_sum"
    and x.outvars[0].aval.dtype == jnp.bfloat16
  ]


@pytest.mark.slow
@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("is_compiled", [True, False])
def test_debugging_switches(model, is_compiled):
  """Our own -inf or NaN would be reported as a fault of the user's run."""
  step, args = make_training_step(model, "float32")
  with jax.debug_nans(True), jax.debug_infs(True):
    (jax.jit(step) if is_compiled else step)(*args)
