"""Many devices: meshes, shardings, and gradients that devices share.

Files, in the order of dependence:

  mesh.py         the setting `config.mesh`, as in "data=2,fsdp=2,sequence=2"
  parameters.py   parameters and moments, sharded at rest, whole in a gradient
  batches.py      the rows and tokens of a batch that each device has
  sharded.py      gradients and evaluation, each compiled for all devices
  collectives.py  the collectives of a compiled program
  watch.py        the connections by which processes end together
  processes.py    several processes, on one machine or many
"""

from slim.scale.batches import BatchLayout
from slim.scale.mesh import (
  ROW_AXES,
  count_devices,
  create_mesh,
  parse_mesh,
)
from slim.scale.parameters import choose_shardings
from slim.scale.sharded import shard_evaluation_step, shard_gradient_step

__all__ = [
  "ROW_AXES",
  "BatchLayout",
  "count_devices",
  "create_mesh",
  "parse_mesh",
  "choose_shardings",
  "shard_evaluation_step",
  "shard_gradient_step",
]
