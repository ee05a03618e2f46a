"""The setting `mesh`, and what does not fit it: one line that names it."""

import re

import chex
import jax
import numpy as np
import pytest

from slim import config as config_lib
from slim.runs.resuming import init_state
from slim.scale import (
  BatchLayout,
  choose_shardings,
  create_mesh,
  parse_mesh,
)
from slim.settings import SettingError
from slim.training import build, devices, shapes
from tests.helpers import SMALL, make_config
from tests.scale.cases import draw_batch


def test_axes_in_any_order():
  """Fails if an axis needs to be named, or at a certain place."""
  assert parse_mesh("sequence=4, data=2") == {
    "data": 2,
    "fsdp": 1,
    "sequence": 4,
  }


@pytest.mark.parametrize(
  "text", ["", "2", "data=0", "data=2,data=4", "model=2", "data=2;fsdp=2"]
)
def test_what_is_no_mesh_is_refused(text):
  """Fails if a misspelt axis trains on other devices than meant."""
  with pytest.raises(SettingError, match="mesh must be sizes of data, fsdp"):
    parse_mesh(text)


def test_axes_of_one_device_are_left_out():
  """Fails if a program has collectives of one device."""
  assert create_mesh(None, jax.devices()[:1]) is None
  assert create_mesh("data=1,sequence=1", jax.devices()) is None
  assert create_mesh("data=1,fsdp=2", jax.devices()).axis_names == ("fsdp",)
  assert dict(create_mesh(None, jax.devices()).shape) == {"data": 8}
  with pytest.raises(SettingError, match="multiply to at most 8, as there are"):
    create_mesh("data=3,fsdp=3", jax.devices())


@pytest.mark.parametrize(
  ("settings", "message"),
  [
    (
      {"mesh": "data=4", "train__batch_size": 6},
      "config.train.batch_size must be a multiple of 4, the number of devices "
      "that share a batch times config.train.accumulation_steps, got 6: change "
      "it, or set config.mesh to data=1 (one device) or sequence=4 (devices",
    ),
    (
      {"mesh": "fsdp=2", "train__accumulation_steps": 4},
      "config.train.batch_size must be a multiple of 8",
    ),
    (
      {"mesh": "sequence=32"},
      "config.data.sequence_length must be at least 32, so that each device",
    ),
    (
      {"mesh": "sequence=2", "model__attention": "lsh"},
      "config.model.attention must be 'linear' in all layers, or softmax",
    ),
    (
      {"mesh": "sequence=2", "model__attention": "linear,softmax"},
      "config.model.attention must be 'linear' in all layers, or softmax",
    ),
  ],
)
def test_a_batch_that_does_not_fit_is_refused(settings, message):
  """Fails if devices have nothing to do, or unequal parts."""
  settings = {"gradient__method": "full", "model__num_layers": 2} | settings
  with pytest.raises(SettingError, match=re.escape(message)):
    config_lib.validate(make_config(**SMALL | settings))


def test_advice_is_what_the_model_can_do():
  """Fails if a model that needs whole sequences is told to share them."""
  settings = SMALL | {"mesh": "data=4", "train__batch_size": 6}
  with pytest.raises(SettingError) as error:
    config_lib.validate(make_config(**settings, model__attention="gla"))
  assert str(error.value).endswith("or set config.mesh to data=1 (one device)")


def test_all_devices_need_a_batch_for_all():
  """Fails if the default leaves rows out."""
  config = make_config(**SMALL, mesh=None)
  with pytest.raises(SettingError, match="must be a multiple of 8, the number"):
    devices.create_mesh(config)
  config.train.batch_size = 16
  assert devices.create_mesh(config).size == 8


def test_the_largest_axis_that_divides_is_sharded():
  """Fails if a parameter is whole on each device, or cut where it cannot be."""
  mesh = create_mesh("data=2,fsdp=2,sequence=2", jax.devices())
  shapes = {"a": (8, 16), "b": (16,), "c": (3, 5), "d": (3, 12, 6)}
  found = choose_shardings(
    {k: jax.ShapeDtypeStruct(x, np.float32) for k, x in shapes.items()}, mesh
  )
  specs = {k: x.sharding.spec for k, x in found.items()}
  parts = ("fsdp", "sequence")
  assert specs == {
    "a": jax.P(None, parts),
    "b": jax.P(),
    "c": jax.P(),
    "d": jax.P(None, parts),
  }


def test_parameters_start_as_on_one_device():
  """Fails if random numbers depend on how an array is sharded."""
  states = []
  for mesh in ("fsdp=4", "data=1"):
    config = make_config(**SMALL, mesh=mesh)
    experiment = build.create_experiment(config, devices.create_mesh(config))
    abstract = shapes.abstract_state(experiment)
    states.append(init_state(config, experiment, abstract))
  chex.assert_trees_all_equal(*states)


@pytest.mark.parametrize("order", ["chunk", "zigzag"])
def test_each_token_is_on_one_device(order):
  """Fails if padding pushes a token out, or one is on two devices."""
  mesh = create_mesh("data=2,sequence=4", jax.devices())
  layout = BatchLayout(mesh, 21, 3, order)
  batch = draw_batch(4, 21)
  put = layout.put(batch, 4, layout.rows(4))
  back = np.argsort(layout.order)
  for found, right in zip(put[:3], batch[:3], strict=True):
    assert found.shape == layout.abstract(4).inputs.shape
    found = np.asarray(found)[:, back]
    np.testing.assert_array_equal(found[:, :21], right)
    assert not found[:, 21:].any()
