"""The rows and tokens of a batch that each device has."""

import dataclasses
import functools
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from slim.kernels import chunk_order, zigzag_order
from slim.scale.mesh import ROW_AXES, sharded_over, size_of
from slim.types import Batch, TokenOrder


def batch_spec(mesh: Mesh) -> PartitionSpec:
  """Returns the spec of the arrays of a batch on a mesh."""
  return sharded_over(mesh, ROW_AXES, ("sequence",))


@dataclasses.dataclass(frozen=True)
class BatchLayout:
  """The layout of a batch [B, T] on a mesh.

  The axes "data" and "fsdp" share its rows, "sequence" the tokens of each row.
  The end of a row is padded with tokens of weight 0 until they divide, which
  changes nothing: they come after all others.

  Attributes:
    mesh: The mesh.
    num_tokens: T.
    chunk_size: C, tokens of a device in a chunk; None: all that it has.
    token_order: That of the model; None: each device has all tokens of a row.
  """

  mesh: Mesh
  num_tokens: int
  chunk_size: int | None = None
  token_order: TokenOrder | None = None

  @functools.cached_property
  def order(self) -> np.ndarray:
    """Which token of a row comes where; numbers from T on are padding."""
    num_devices = size_of(self.mesh, ("sequence",))
    if num_devices == 1:
      return np.arange(self.num_tokens)
    pieces = num_devices * (2 if self.token_order == "zigzag" else 1)
    padded = self.num_tokens + -self.num_tokens % pieces
    if self.token_order == "zigzag":
      return zigzag_order(padded, num_devices)
    size = self.chunk_size or padded
    return chunk_order(padded, num_devices, size)

  def abstract(self, batch_size: int) -> Batch:
    """Returns the shapes of a batch on the mesh, to compile without data."""
    shape = batch_size, self.order.size
    sharding = NamedSharding(self.mesh, batch_spec(self.mesh))
    tokens = jax.ShapeDtypeStruct(shape, np.int32, sharding=sharding)
    weights = jax.ShapeDtypeStruct(shape, np.float32, sharding=sharding)
    return Batch._make((tokens, tokens, weights, None))

  def rows(self, batch_size: int) -> slice:
    """Returns the rows of a batch that the devices of this process need."""
    sharding = NamedSharding(self.mesh, batch_spec(self.mesh))
    shape = batch_size, self.order.size
    pieces: Any = sharding.addressable_devices_indices_map(shape)
    found = [range(batch_size)[rows] for rows, _ in pieces.values()]
    return slice(min(x.start for x in found), max(x.stop for x in found))

  def put(self, batch: Batch, batch_size: int, rows: slice) -> Batch:
    """Puts a batch onto the devices of the mesh.

    Args:
      batch: [rows, T], of NumPy: those rows that this process needs.
      batch_size: B, rows of all processes.
      rows: Which these are.

    Returns:
      The arrays of all processes, each row with padding.
    """
    order = self.order
    missing = order.max() + 1 - self.num_tokens
    sharding = NamedSharding(self.mesh, batch_spec(self.mesh))
    shape = batch_size, order.size

    def put(x):
      if x is None:
        return None
      x = np.pad(x, ((0, 0), (0, missing)))[:, order]

      def piece(index):
        first, last, _ = index[0].indices(batch_size)
        return x[first - rows.start : last - rows.start, index[1]]

      return jax.make_array_from_callback(shape, sharding, piece)

    return Batch._make(map(put, batch))
