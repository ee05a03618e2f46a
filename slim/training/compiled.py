"""The compiled programs of a run."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import ml_collections

from slim.data.dataset import ALL_ROWS
from slim.targets import HERE, Target
from slim.training import build, devices, steps
from slim.training.gradients import COMPILER_OPTIONS
from slim.training.steps import GradientStep, UpdateStep
from slim.types import Batch, Params, Sums, TrainState


class CompiledGradient(NamedTuple):
  """A compiled gradient, and the memory that XLA assigned to it."""

  step: GradientStep
  activation_bytes: int  # All temporary buffers; no arguments or results.


class CompiledSteps(NamedTuple):
  """What one update runs."""

  gradients: dict[str, CompiledGradient]  # By method, see `build.method_at`.
  update: UpdateStep
  rows: slice = ALL_ROWS  # Of a batch, that this process needs.


def compile_steps(
  config: ml_collections.ConfigDict,
  experiment: build.Experiment,
  abstract_state: TrainState,
  start: int,
) -> CompiledSteps:
  """Compiles the updates of a run from step `start` on.

  Args:
    config: All settings.
    experiment: The experiment of these settings.
    abstract_state: The shapes and dtypes of its state.
    start: Updates done so far.

  Returns:
    The compiled steps, with the gradient methods that are still needed.
  """
  methods = {
    build.method_at(config, start),
    build.method_at(config, config.train.num_steps - 1),
  }
  batch = devices.abstract_batch(config, experiment)
  gradients = {
    method: compile_gradient_step(
      experiment.gradient_steps[method], abstract_state.params, batch
    )
    for method in methods
  }
  update = compile_update(config, experiment, abstract_state)
  return take_host_batches(config, experiment, CompiledSteps(gradients, update))


def take_host_batches(
  config: ml_collections.ConfigDict,
  experiment: build.Experiment,
  compiled: CompiledSteps,
) -> CompiledSteps:
  """Lets programs for a mesh take the rows of a batch that this process makes.

  Args:
    config: All settings.
    experiment: The experiment of these settings.
    compiled: The programs.

  Returns:
    The same, which put these rows onto the devices first.
  """
  if experiment.mesh is None:
    return compiled
  batch_size = config.train.batch_size
  rows = devices.batch_layout(config, experiment, "full").rows(batch_size)

  def put_first(method, gradient):
    layout = devices.batch_layout(config, experiment, method)

    def step(params, batch, number):
      batch = layout.put(batch, batch_size, rows)
      return gradient.step(params, batch, number)

    return gradient._replace(step=step)

  gradients = {
    method: put_first(method, gradient)
    for method, gradient in compiled.gradients.items()
  }
  return CompiledSteps(gradients, compiled.update, rows)


def compile_gradient_step(
  gradient_step: GradientStep,
  params: Params,
  batch: Batch,
  target: Target = HERE,
) -> CompiledGradient:
  """Compiles a gradient, and asks the compiler how much memory it needs.

  Args:
    gradient_step: From `make_gradient_step`.
    params: Parameters, or their shapes.
    batch: A batch, or its shapes.
    target: What to compile for.

  Returns:
    The compiled gradient with its activation memory.
  """
  step = jax.ShapeDtypeStruct((), jnp.int32)
  compiled = target.compile(
    gradient_step, params, batch, step, options=COMPILER_OPTIONS
  )
  return CompiledGradient(compiled, target.temporary_bytes(compiled))


def compile_update(
  config: ml_collections.ConfigDict,
  experiment: build.Experiment,
  state: TrainState,
  target: Target = HERE,
) -> jax.stages.Compiled:
  """Compiles the update of a run.

  Args:
    config: All settings.
    experiment: The experiment of these settings.
    state: A state, or its shapes.
    target: What to compile for.

  Returns:
    The update, as `compile_update_step` returns it.
  """
  update = steps.make_update_step(
    experiment.optimizer, build.skip_above(config)
  )
  return compile_update_step(update, state, target)


def compile_update_step(
  update_step: UpdateStep, state: TrainState, target: Target = HERE
) -> jax.stages.Compiled:
  """Compiles an update that writes the new state over the old one.

  Args:
    update_step: From `make_update_step`.
    state: A state, or its shapes.
    target: What to compile for.

  Returns:
    The compiled `update_step`. It donates the state that it is given.
  """
  # The step is on all devices; None: there is one.
  sharding, shardings = state.step.sharding, None
  if sharding is not None:
    # Else the compiler might choose others.
    shardings = jax.tree.map(lambda x: x.sharding, state), sharding
  number = jax.ShapeDtypeStruct((), jnp.float32, sharding=sharding)
  sums = Sums._make((number, number, number))
  jitted = jax.jit(update_step, donate_argnums=0, out_shardings=shardings)
  return target.compile(jitted, state, state.params, sums)
