"""Many devices: a mesh, what each device has of it, and gradients on it.

mesh.py        the setting `config.mesh`, as in "data=2,fsdp=2,sequence=2"
parameters.py  parameters and moments, sharded at rest, whole in a gradient
batches.py     the rows and tokens of a batch that each device has
  sharded.py     gradients and evaluation, each compiled for all devices
  processes.py   several processes, on one machine or many
"""

from slim.scale.batches import BatchLayout
from slim.scale.mesh import (
  ROW_AXES,
  count_devices,
  create_mesh,
  parse_mesh,
)
from slim.scale.parameters import shard
from slim.scale.sharded import shard_evaluation_step, shard_gradient_step

__all__ = [
  "ROW_AXES",
  "BatchLayout",
  "count_devices",
  "create_mesh",
  "parse_mesh",
  "shard",
  "shard_evaluation_step",
  "shard_gradient_step",
]
