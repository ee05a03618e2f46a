"""The blocks that chunked softmax attention is computed by."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from slim.kernels.softmax._arguments import Attention
from slim.kernels.softmax._slices import take
from slim.kernels.support.closures import (
  ClosureConverted,
  closure_to_arguments,
)
from slim.kernels.support.explicit_meshes import is_sharded
from slim.kernels.support.head_rows import to_head_rows
from slim.kernels.support.mesh_axes import match_varying_axes
from slim.kernels.support.products import matmul_f32


class Axis(NamedTuple):
  """A cut of `length` tokens into blocks of `size`.

  The last block does not reach beyond the end but back into the one before it;
  tokens that it shares are the other's, not `counted_here`.
  """

  length: int
  size: int

  @property
  def num_blocks(self) -> int:
    """How many there are."""
    return -(-self.length // self.size)

  def start(self, i):
    """The first token of block i."""
    start = jnp.minimum(i * self.size, self.length - self.size)
    return start.astype(jnp.int32)

  def index(self, i):
    """The tokens of block i, [size], int32."""
    return self.start(i) + jnp.arange(self.size, dtype=jnp.int32)

  def counted_here(self, i):
    """Which of them are in no earlier block, [size]; None: all."""
    if self.length % self.size == 0:
      return None
    return self.index(i) >= i * self.size

  def blocks(self, first, last):
    """The range of blocks that have tokens from `first` to `last`."""
    begin, end = 0, self.num_blocks
    if first is not None:
      begin = jnp.clip(first // self.size, 0, end)
    if last is not None:
      end = jnp.clip(last // self.size + 1, 0, end)
    return begin, end


class Blocks(NamedTuple):
  """What has to be known of an attention's blocks that is not an array.

  Attributes:
    rows: The queries.
    columns: The keys.
    q_scale: What q is to be multiplied with before it is used.
    precision: Of the matrix products.
    score: The function `make_score` makes, with its arrays as an argument.
    dropout_scale: The function `make_dropout_scale` makes, likewise; or None.
  """

  rows: Axis
  columns: Axis
  q_scale: float
  precision: Any
  score: ClosureConverted
  dropout_scale: ClosureConverted | None

  def queries(self, x: jax.Array, k: jax.Array, i: Any) -> jax.Array:
    """Cuts out block i of queries, or of what there is one of a query.

    Args:
      x: [B, T, H, X].
      k: [B, S, N, K]; only N counts.
      i: Which block.

    Returns:
      [B, N, G·s, X].
    """
    heads = k.shape[2], x.shape[2] // k.shape[2]
    return to_head_rows(take(x, self.rows.start(i), self.rows.size, 1), heads)

  def keys(self, x: jax.Array, j: Any) -> jax.Array:
    """Cuts block j, [B, N, t, X], out of keys or values [B, S, N, X]."""
    return to_head_rows(take(x, self.columns.start(j), self.columns.size, 1))

  def bias(self, bias: jax.Array | None, i: Any, j: Any) -> jax.Array | None:
    """Cuts out what is added to the scores of block i, j."""
    if bias is None:
      return None
    bias = take(bias, self.rows.start(i), self.rows.size, 2)
    return take(bias, self.columns.start(j), self.columns.size, 3)

  def scores(
    self,
    consts: list[jax.Array],
    products: jax.Array,
    bias: jax.Array | None,
    i: Any,
    j: Any,
  ) -> jax.Array:
    """Computes the scores of block i, j.

    Args:
      consts: What `score` once closed over.
      products: [B, N, G·s, t], of scaled queries and keys.
      bias: As `self.bias` cuts it.
      i: Which block of queries.
      j: Which block of keys.

    Returns:
      [B, N, G·s, t]; -inf for keys that another block has counted.
    """
    scores = self.score(consts, products, bias, *self._index(products, i, j))
    counted = self.columns.counted_here(j)
    return scores if counted is None else jnp.where(counted, scores, -jnp.inf)

  def drop(
    self, consts: list[jax.Array], x: jax.Array, i: Any, j: Any
  ) -> jax.Array:
    """Multiplies [B, N, G·s, t] by what dropout makes of probabilities."""
    if self.dropout_scale is None:
      return x
    dropout_scale = self.dropout_scale(consts, *self._index(x, i, j))
    return x * dropout_scale.reshape(x.shape).astype(x.dtype)

  def _index(self, like, i, j):
    """The tokens of block i, j; in `shard_map` they vary as `like` does."""
    index = self.rows.index(i), self.columns.index(j)
    return match_varying_axes((like, *index))[1:]


def cut(
  attention: Attention, q_block_size: int, k_block_size: int
) -> tuple[Blocks, tuple[Any, ...]]:
  """Cuts an attention into blocks.

  Args:
    attention: The checked arguments.
    q_block_size: Queries in a block, if there are so many.
    k_block_size: Keys in a block, likewise.

  Returns:
    The blocks, and the arrays that their functions take first: those of
    `score`, those of `dropout_scale`, the window and the scale.
  """
  q, k, _, bias, scale, q_scale, window, score, dropout_scale, precision = (
    attention
  )
  rows = Axis(q.shape[1], min(q_block_size, q.shape[1]))
  columns = Axis(k.shape[1], min(k_block_size, k.shape[1]))
  blocks = Blocks(rows, columns, q_scale, precision, score, dropout_scale)

  def first_product(q, k):
    return matmul_f32(blocks.queries(q, k, 0), blocks.keys(k, 0), (-1, -1))

  if is_sharded(q):  # `eval_shape` forgets it if other axes are not explicit.
    products = first_product(q, k)
  else:
    products = jax.eval_shape(first_product, q, k)
  index = match_varying_axes((q, rows.index(0), columns.index(0)))[1:]
  score, score_consts = closure_to_arguments(
    score, products, blocks.bias(bias, 0, 0), *index
  )
  dropout_consts = []
  if dropout_scale is not None:
    dropout_scale, dropout_consts = closure_to_arguments(dropout_scale, *index)
  blocks = blocks._replace(score=score, dropout_scale=dropout_scale)
  return blocks, (score_consts, dropout_consts, window, scale)
