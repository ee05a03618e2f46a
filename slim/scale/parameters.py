"""Parameters, gradients and moments that are sharded over the devices.

A matrix is sharded at rest over the axes "fsdp" and "sequence" together, along
its largest axis that they divide. It is gathered once before a gradient, and
its gradient is scattered once after it. Arrays of one axis are small and stay
replicated, as each collective costs a latency.
"""

from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from slim.kernels.support.mesh_axes import vary
from slim.scale.mesh import PARAMETER_AXES, axes_of, size_of
from slim.types import Params


def choose_shardings(tree: Any, mesh: Mesh) -> Any:
  """Chooses a sharding for each array of a state.

  Moments of an optimizer have the shapes of their parameters, and so their
  shardings.

  Args:
    tree: Pytree of arrays or of their shapes.
    mesh: The mesh.

  Returns:
    Pytree of `jax.ShapeDtypeStruct`s with shardings.
  """
  return jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(
      x.shape, x.dtype, sharding=NamedSharding(mesh, _spec(x, mesh))
    ),
    tree,
  )


def specs_of(tree: Any, mesh: Mesh) -> Any:
  """Returns the specs of the shardings that `choose_shardings` makes.

  Args:
    tree: Pytree of arrays or of their shapes.
    mesh: The mesh.

  Returns:
    Pytree of specs.
  """
  return jax.tree.map(lambda x: _spec(x, mesh), tree)


def gather(params: Params, specs: Any, mesh: Mesh) -> Params:
  """Gathers the parameters on each device; call it in `jax.shard_map`.

  Args:
    params: The shards of this device.
    specs: From `specs_of`.
    mesh: The mesh.

  Returns:
    Whole parameters. They vary over all axes of the mesh, so that no derivative
    sums over devices by itself, perhaps in a loop.
  """

  def whole(x, spec):
    axis = _sharded_axis(spec)
    if axis is not None:
      x = jax.lax.all_gather(x, spec[axis], axis=axis, tiled=True)
    return vary(x, mesh.axis_names)

  return jax.tree.map(whole, params, specs)


def sum_and_scatter(
  gradients: Params, sums: Any, specs: Any, mesh: Mesh
) -> Any:
  """Sums gradients over all devices, and leaves each its shard.

  Args:
    gradients: Those of this device, of whole parameters.
    sums: Pytree of further arrays to be summed.
    specs: From `specs_of`.
    mesh: The mesh.

  Returns:
    (gradients, sums): the shards of the gradients, and the sums on all devices.
  """
  parts = axes_of(mesh, PARAMETER_AXES)
  others = tuple(axis for axis in mesh.axis_names if axis not in parts)

  def total(x, spec):
    axis = _sharded_axis(spec)
    if axis is None:
      return jax.lax.psum(x, mesh.axis_names)
    # First the scatter: the sum has then less to send.
    x = jax.lax.psum_scatter(x, parts, scatter_dimension=axis, tiled=True)
    return jax.lax.psum(x, others) if others else x

  gradients = jax.tree.map(total, gradients, specs)
  return gradients, jax.lax.psum(sums, mesh.axis_names)


def _spec(x, mesh):
  """The spec of an array."""
  count = size_of(mesh, PARAMETER_AXES)
  fitting = [n for n in range(x.ndim) if x.shape[n] % count == 0]
  if x.ndim < 2 or count == 1 or not fitting:
    return PartitionSpec()
  axis = max(fitting, key=lambda n: x.shape[n])
  return PartitionSpec(*[None] * axis, axes_of(mesh, PARAMETER_AXES))


def _sharded_axis(spec):
  """Which axis of an array is sharded, or None."""
  return len(spec) - 1 if len(spec) else None
