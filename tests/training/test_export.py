"""Every training gradient is lowered for all platforms."""

import jax
import jax.numpy as jnp
import pytest
from jax import export

from slim.training import build, shapes
from tests.helpers import SMALL, make_config

PLATFORMS = ("cpu", "cuda", "tpu")


@pytest.mark.parametrize(
  "settings",
  [
    dict(gradient__method="slim", gradient__chunk_size=8),
    dict(
      gradient__method="slim", gradient__chunk_size=8, model__reversible=True
    ),
    dict(gradient__method="remat", model__attention="chunked_softmax"),
    dict(
      gradient__method="full",
      model__attention="local,lsh",
      model__num_layers=2,
      model__bucket_size=4,
      model__reversible=True,
    ),
  ],
  ids=["performer", "reversible", "transformer", "reformer"],
)
def test_every_platform_is_lowered_for(settings):
  """Fails if a training step cannot be lowered for one, or not be stored."""
  config = make_config(**SMALL | settings)
  experiment = build.create_experiment(config)
  [step] = experiment.gradient_steps.values()
  params = jax.eval_shape(lambda: build.init(experiment)).params
  exported = export.export(jax.jit(step), platforms=PLATFORMS)(
    params, shapes.abstract_batch(config), jax.ShapeDtypeStruct((), jnp.int32)
  )
  assert exported.platforms == PLATFORMS
  assert export.deserialize(exported.serialize()).out_tree == exported.out_tree
