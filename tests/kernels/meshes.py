"""A mesh whose devices share tokens, for kernels that communicate."""

import jax
import numpy as np
from jax.sharding import AxisType, PartitionSpec

TOKENS = PartitionSpec(None, "sequence")  # Of arrays [B, T, …].
SAME = PartitionSpec()  # Of arrays that are equal on all devices.


def make_mesh(num_devices):
  """Makes a mesh of one axis, "sequence"."""
  return jax.make_mesh(
    (num_devices,),
    ("sequence",),
    (AxisType.Auto,),
    devices=jax.devices()[:num_devices],
  )


def on_devices(fn, num_devices, order, *, num_shared=0, state=False):
  """Makes `fn` take whole arrays, whose tokens devices share.

  Args:
    fn: A function of arrays of one device.
    num_devices: P.
    order: Which token comes where.
    num_shared: How many arguments, the last ones, all devices have.
    state: Whether `fn` returns a state, too. It is returned for each device,
      on a new first axis.

  Returns:
    The function, in the order of the sequence.
  """

  def of_device(*args):
    if not state:
      return fn(*args)
    y, after = fn(*args)
    return y, jax.tree.map(lambda x: x[None], after)

  def run(*args):
    count = len(args) - num_shared
    tokens = [x[:, order] for x in args[:count]]
    sharded = jax.shard_map(
      of_device,
      mesh=make_mesh(num_devices),
      in_specs=(TOKENS,) * count + (SAME,) * num_shared,
      out_specs=(TOKENS, PartitionSpec("sequence")) if state else TOKENS,
    )
    out = sharded(*tokens, *args[count:])
    back = np.argsort(order)
    return (out[0][:, back], out[1]) if state else out[:, back]

  return run
