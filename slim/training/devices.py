"""The devices of a run: their mesh, and the shardings on it."""

import contextlib
import math
from collections.abc import Callable
from typing import Any

import jax
import ml_collections
from jax.sharding import Mesh

from slim import scale
from slim.data import Dataset, is_packed
from slim.settings import SettingError, prefix_setting_errors
from slim.targets import HERE, Target
from slim.training import build, shapes
from slim.training.evaluation import (
  make_evaluation,
  make_sharded_evaluation,
)
from slim.types import Batch, Params, Sums, TrainState


def create_mesh(
  config: ml_collections.ConfigDict, target: Target = HERE
) -> Mesh | None:
  """Creates the mesh of devices that a run uses.

  Args:
    config: All settings. Without `mesh`, all devices of this machine share the
      sequences of a batch; of another target there is one.
    target: What the devices are.

  Returns:
    The mesh; None for one device.

  Raises:
    SettingError: If the mesh does not fit the devices, or the batch.
  """
  with prefix_setting_errors("config."):
    count = scale.count_devices(config.mesh)
  if target.accelerator is not None and count == 1:
    return None
  devices = target.devices(count)
  with prefix_setting_errors("config."):
    mesh = scale.create_mesh(config.mesh, devices)
  if mesh is not None:
    _check_sizes(config, mesh.shape)
  return mesh


def simulate_devices(config: ml_collections.ConfigDict) -> None:
  """Lets the CPU stand for all devices of a mesh, for what is only compiled.

  Call it before JAX looks for devices.

  Args:
    config: All settings.
  """
  with prefix_setting_errors("config."):
    count = scale.count_devices(config.mesh)
  if count > 1:
    with contextlib.suppress(RuntimeError):  # JAX has looked for them before.
      jax.config.update("jax_num_cpu_devices", count)


def check_mesh(config: ml_collections.ConfigDict) -> None:
  """Raises if `config.mesh` cannot work, whatever devices there are.

  Args:
    config: All settings.

  Raises:
    SettingError: If it is no mesh, or does not fit the batch or the mixers.
  """
  if config.mesh is not None:
    with prefix_setting_errors("config."):
      sizes = scale.parse_mesh(config.mesh)
    _check_sizes(config, sizes)


def _check_sizes(config, sizes):
  """Raises if devices of a mesh cannot share a batch; `sizes` by axis."""
  num_parts = math.prod(sizes.get(axis, 1) for axis in scale.ROW_AXES)
  num_parts *= config.train.accumulation_steps
  if config.train.batch_size % num_parts:
    raise SettingError(
      "config.train.batch_size",
      f"must be a multiple of {num_parts}, the number of devices that share a "
      "batch times config.train.accumulation_steps, got "
      f"{config.train.batch_size}: change it, or set config.mesh to data=1 "
      f"(one device){_sequence_advice(config, math.prod(sizes.values()))}",
    )
  num_devices = sizes.get("sequence", 1)
  if config.data.sequence_length < num_devices:
    raise SettingError(
      "config.data.sequence_length",
      f"must be at least {num_devices}, so that each device on the axis "
      f"sequence of config.mesh has a token, got {config.data.sequence_length}",
    )
  if num_devices > 1:
    build.create_model(config, "sequence")


def _sequence_advice(config, num_devices):
  """Returns advice to share the tokens, or nothing if the model cannot."""
  try:
    build.create_model(config, "sequence")
  except SettingError:
    return ""
  return f" or sequence={num_devices} (devices share the tokens of a sequence)"


def batch_layout(
  config: ml_collections.ConfigDict, experiment: build.Experiment, method: str
) -> scale.BatchLayout:
  """Returns how a batch lies on the devices of an experiment.

  Args:
    config: All settings.
    experiment: The experiment of these settings, on a mesh.
    method: The gradient; only "slim" cuts sequences into chunks.

  Returns:
    The layout.
  """
  assert experiment.mesh is not None
  return scale.BatchLayout(
    experiment.mesh,
    config.data.sequence_length,
    config.gradient.chunk_size if method == "slim" else None,
    experiment.model.token_order,
  )


def abstract_batch(
  config: ml_collections.ConfigDict, experiment: build.Experiment
) -> Batch:
  """Returns the shapes of a training batch, and its sharding on a mesh.

  Args:
    config: All settings.
    experiment: The experiment of these settings.

  Returns:
    Batch of `jax.ShapeDtypeStruct`s.
  """
  if experiment.mesh is None:
    return shapes.abstract_batch(config)
  layout = batch_layout(config, experiment, "full")
  batch = layout.abstract(config.train.batch_size)
  if is_packed(config.data):
    batch = batch._replace(positions=batch.inputs)
  return batch


def create_evaluation(
  config: ml_collections.ConfigDict,
  experiment: build.Experiment,
  dataset: Dataset,
) -> Callable[[Params], Sums]:
  """Creates the evaluation of a run on a split.

  Args:
    config: All settings.
    experiment: The experiment of these settings.
    dataset: The split.

  Returns:
    `evaluate(params) -> Sums`, by all devices of the experiment.
  """
  num_batches = config.train.eval_batches
  batch_size = build.rows_at_once(config)
  model, mesh = experiment.model, experiment.mesh
  if mesh is None:
    return make_evaluation(
      model,
      dataset,
      batch_size=batch_size,
      chunk_size=build.evaluation_chunk(config),
      num_batches=num_batches,
    )
  return make_sharded_evaluation(
    build.model_of_device(config, model, mesh),
    dataset,
    batch_layout(config, experiment, config.gradient.method),
    batch_size=batch_size,
    params=jax.eval_shape(model.init, jax.random.key(0)),
    num_batches=num_batches,
  )


def shardings_of(state: TrainState) -> TrainState | None:
  """Returns the shardings in the shapes of a state; None without a mesh."""
  if state.step.sharding is None:
    return None
  return jax.tree.map(lambda x: x.sharding, state)


def place_like(state: TrainState, like: TrainState) -> TrainState:
  """Adds shardings to the shapes of a state.

  Args:
    state: Shapes; its layers may be stacked otherwise than those of `like`.
    like: Shapes, with shardings if there is a mesh.

  Returns:
    The shapes with shardings.
  """
  sharding: Any = like.step.sharding
  if sharding is not None:
    return scale.choose_shardings(state, sharding.mesh)
  device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
  return jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=device), state
  )
