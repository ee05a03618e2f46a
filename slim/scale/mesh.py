"""The mesh of devices that `config.mesh` describes.

  data      shares the sequences of a batch
  fsdp      shares the sequences of a batch, and the parameters
  sequence  shares the tokens of each sequence, and the parameters

A mesh has only the axes that are larger than 1, so that a program has no
collectives of one device.
"""

import math
import re
from collections.abc import Sequence

import jax
from jax.sharding import AxisType, Mesh, PartitionSpec

from slim.settings import SettingError

AXES = ("data", "fsdp", "sequence")
ROW_AXES = ("data", "fsdp")
PARAMETER_AXES = ("fsdp", "sequence")


def parse_mesh(text: str) -> dict[str, int]:
  """Reads the setting `mesh`.

  Args:
    text: As in "data=2,sequence=4", in any order.

  Returns:
    The size of each of `AXES`; 1 where the text has none.

  Raises:
    SettingError: If it is not of this form.
  """
  sizes = {}
  for part in text.split(","):
    match = re.fullmatch(r"\s*(\w+)\s*=\s*([1-9]\d{0,8})\s*", part)
    if match is None or match[1] not in AXES or match[1] in sizes:
      raise SettingError(
        "mesh",
        "must be sizes of data, fsdp and sequence, each at most once, as in "
        f"data=2,fsdp=2,sequence=2, got {text!r}",
      )
    sizes[match[1]] = int(match[2])
  return {axis: sizes.get(axis, 1) for axis in AXES}


def count_devices(text: str | None) -> int:
  """Returns how many devices the setting `mesh` asks for; None asks for one."""
  return 1 if text is None else math.prod(parse_mesh(text).values())


def create_mesh(text: str | None, devices: Sequence[jax.Device]) -> Mesh | None:
  """Creates the mesh of a run.

  Args:
    text: The setting; None: all devices share the sequences of a batch.
    devices: The devices.

  Returns:
    The mesh, of the first devices if there are more than it needs; None for a
    single device.

  Raises:
    SettingError: If the text does not fit the devices.
  """
  sizes = parse_mesh(f"data={len(devices)}" if text is None else text)
  count = math.prod(sizes.values())
  # Each process must have a part of the mesh, or it would have nothing to do.
  exact = jax.process_count() > 1
  if count > len(devices) or (exact and count < len(devices)):
    raise SettingError(
      "mesh",
      f"must multiply to {'' if exact else 'at most '}{len(devices)}, as there "
      f"are {len(devices)} devices, got {text!r}, which is {count}",
    )
  sizes = {axis: size for axis, size in sizes.items() if size > 1}
  if not sizes:
    return None
  return jax.make_mesh(
    tuple(sizes.values()),
    tuple(sizes),
    (AxisType.Auto,) * len(sizes),
    devices=devices[:count],
  )


def size_of(mesh: Mesh, axes: Sequence[str]) -> int:
  """Returns the product of the sizes of some axes."""
  return math.prod(mesh.shape[axis] for axis in axes_of(mesh, axes))


def axes_of(mesh: Mesh, axes: Sequence[str] = AXES) -> tuple[str, ...]:
  """Returns those of some axes that a mesh has."""
  return tuple(axis for axis in axes if axis in mesh.shape)


def sharded_over(mesh: Mesh, *axes: Sequence[str]) -> PartitionSpec:
  """Makes a spec from names of mesh axes that need not exist.

  Args:
    mesh: The mesh.
    *axes: For each axis of an array, the mesh axes that share it.

  Returns:
    The spec.
  """
  return PartitionSpec(*(axes_of(mesh, names) or None for names in axes))
