"""Gradients and evaluations, each compiled for all devices of a mesh.

Everything between gathering the parameters and summing the results is computed
by each device for itself, so that a loop over chunks has no collectives but
those that the model asks for.
"""

from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import Mesh, PartitionSpec
from jax.typing import ArrayLike

from slim.scale.batches import batch_spec
from slim.scale.mesh import ROW_AXES, axes_of
from slim.scale.parameters import gather, specs_of, sum_and_scatter
from slim.types import Batch, Params, Sums


def shard_gradient_step(
  gradient_step: Callable[..., tuple[Sums, Params]],
  mesh: Mesh,
  params: Params,
) -> Callable[[Params, Batch, ArrayLike], tuple[Sums, Params]]:
  """Makes the gradient of a batch that devices share.

  Args:
    gradient_step: `gradient_step(params, batch, step, first_row)` of the rows
      and tokens of one device, see `slim.training.steps.GradientStep`.
    mesh: The mesh.
    params: The parameters, or their shapes.

  Returns:
    `gradient_step(params, batch, step) -> (Sums, gradients)`, where parameters
    and gradients have the shardings of `choose_shardings`. Jit it.
  """
  specs = specs_of(params, mesh)

  def of_device(params, batch, step):
    params = gather(params, specs, mesh)
    first_row = batch.inputs.shape[0] * _row_index(mesh)
    sums, gradients = gradient_step(params, batch, step, first_row)
    gradients, sums = sum_and_scatter(gradients, sums, specs, mesh)
    return sums, gradients

  return jax.shard_map(
    of_device,
    mesh=mesh,
    in_specs=(specs, batch_spec(mesh), PartitionSpec()),
    out_specs=(PartitionSpec(), specs),
  )


def shard_evaluation_step(
  evaluation_step: Callable[[Params, Batch], Any],
  mesh: Mesh,
  params: Params,
) -> Callable[[Params, Batch], Any]:
  """Makes the sums over a batch that devices share.

  Args:
    evaluation_step: `evaluation_step(params, batch)`, sums over the rows and
      tokens of one device.
    mesh: The mesh.
    params: The parameters, or their shapes.

  Returns:
    The same for all devices. Jit it.
  """
  specs = specs_of(params, mesh)

  def of_device(params, batch):
    sums = evaluation_step(gather(params, specs, mesh), batch)
    return jax.lax.psum(sums, mesh.axis_names)

  return jax.shard_map(
    of_device,
    mesh=mesh,
    in_specs=(specs, batch_spec(mesh)),
    out_specs=PartitionSpec(),
  )


def _row_index(mesh):
  """Which part of the rows this device has."""
  axes = axes_of(mesh, ROW_AXES)
  return jax.lax.axis_index(axes) if axes else 0
