"""Blocks of queries and keys, by which chunked softmax attention computes."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from slim.kernels.softmax._arguments import Attention
from slim.kernels.softmax._finite import (
  finite_or_zero,
  nan_if_not_finite,
  query_key_products,
)
from slim.kernels.softmax._grid import (
  Axis,
  Grid,
  Heads,
)
from slim.kernels.softmax._slices import Index
from slim.kernels.softmax._window import Limits, Window
from slim.kernels.support.closures import (
  ClosureConverted,
  closure_to_arguments,
)
from slim.kernels.support.products import matmul_f32


class Inputs(NamedTuple):
  """The arrays of an attention that is cut into blocks.

  Attributes:
    q: [B, T, H, K].
    k: [B, S, G, K].
    v: [B, S, G, V].
    bias: [B or 1, H or 1, T or 1, S or 1], or None.
    scale: [], multiplied with q · k; or None.
    window: Which keys a query sees by their distance.
    term_consts: The arrays that `Blocks.make_terms` closed over.
    dropout_consts: Those of `Blocks.dropout_scale`; none has a gradient.
  """

  q: jax.Array
  k: jax.Array
  v: jax.Array
  bias: jax.Array | None
  scale: jax.Array | None
  window: Window
  term_consts: list[jax.Array]
  dropout_consts: list[jax.Array]

  @property
  def heads(self) -> Heads:
    """All heads of all sequences."""
    return Heads(self.q.shape[0], self.q.shape[2], self.k.shape[2])


class Blocks(NamedTuple):
  """The static part of an attention that is cut into blocks.

  Attributes:
    grid: The blocks.
    limits: Of the window, if they are known at compile time; or None.
    q_scale: Multiplied with q before it is used.
    product_scale: Multiplied with the products of queries and keys.
    precision: Precision of the matrix products.
    make_terms: The function of `term_maker`. It takes its arrays first.
    dropout_scale: The function of `make_dropout_scale`, likewise; or None.
  """

  grid: Grid
  limits: Limits | None
  q_scale: float
  product_scale: float
  precision: jax.lax.PrecisionLike
  make_terms: ClosureConverted
  dropout_scale: ClosureConverted | None

  def scores(
    self,
    consts: list[jax.Array],
    products: jax.Array,
    bias: jax.Array | None,
    i: Index,
    j: Index,
  ) -> jax.Array:
    """Computes the scores of block (i, j).

    Args:
      consts: `Inputs.term_consts`.
      products: [B, G, H/G·s, t], of scaled queries and keys.
      bias: From `Grid.bias`.
      i: Which block of queries.
      j: Which block of keys.

    Returns:
      [B, G, H/G·s, t]; -inf for keys that an earlier block counts.
    """
    terms = self.make_terms(consts, bias, *self.grid.tokens(products, i, j))
    scores = terms.scores(products, self.product_scale, self.grid.rows.size)
    counted = self.grid.columns.counted_here(j)
    return scores if counted is None else jnp.where(counted, scores, -jnp.inf)

  def scores_and_weigh(
    self,
    inputs: Inputs,
    heads: Heads,
    q_block: jax.Array,
    i: Index,
    j: Index,
  ) -> tuple[jax.Array, Callable[[jax.Array], jax.Array]]:
    """Returns what `Partial` needs of block (i, j).

    Args:
      inputs: The arrays.
      heads: Which heads to attend.
      q_block: [B, G, H/G·s, K], block i of the scaled queries.
      i: Which block of queries.
      j: Which block of keys.

    Returns:
      scores: [B, G, H/G·s, t].
      weigh: Maps weights like `scores` to their sums of values,
        [B, G, H/G·s, V], after dropout.
    """
    k_block, v_block = (
      self.grid.keys(x, heads, j) for x in (inputs.k, inputs.v)
    )
    k_block = nan_if_not_finite(k_block, v_block)
    v_block = finite_or_zero(v_block)
    scores = self.scores(
      inputs.term_consts,
      query_key_products(self.precision, q_block, k_block, inputs.scale),
      self.grid.bias(inputs.bias, i, j),
      i,
      j,
    )

    def weigh(weights):
      kept = self.drop(inputs.dropout_consts, weights, i, j)
      kept = kept.astype(v_block.dtype)
      return matmul_f32(kept, v_block, (-1, -2), self.precision)

    return scores, weigh

  def drop(
    self, consts: list[jax.Array], weights: jax.Array, i: Index, j: Index
  ) -> jax.Array:
    """Applies dropout to the attention weights of a block.

    Args:
      consts: `Inputs.dropout_consts`.
      weights: [B, G, H/G·s, t].
      i: Which block of queries.
      j: Which block of keys.

    Returns:
      Array like `weights`.
    """
    if self.dropout_scale is None:
      return weights
    scale = self.dropout_scale(consts, *self.grid.tokens(weights, i, j))
    return weights * scale.reshape(weights.shape).astype(weights.dtype)


def split_into_blocks(
  attention: Attention, q_block_size: int, k_block_size: int
) -> tuple[Blocks, Inputs]:
  """Splits an attention into blocks.

  Args:
    attention: The attention.
    q_block_size: Queries in a block. Larger than T means T.
    k_block_size: Keys in a block. Larger than S means S.

  Returns:
    The static part and the arrays.
  """
  q, k, bias = attention.q, attention.k, attention.bias
  grid = Grid(
    Axis(q.shape[1], min(q_block_size, q.shape[1])),
    Axis(k.shape[1], min(k_block_size, k.shape[1])),
  )

  index = grid.tokens(q, 0, 0)
  make_terms, term_consts = closure_to_arguments(
    attention.make_terms, grid.bias(bias, 0, 0), *index
  )
  dropout_scale: ClosureConverted | None = None
  dropout_consts: list[jax.Array] = []
  if attention.dropout_scale is not None:
    dropout_scale, dropout_consts = closure_to_arguments(
      attention.dropout_scale, *index
    )
  return (
    Blocks(
      grid,
      limits=attention.limits,
      q_scale=attention.q_scale,
      product_scale=attention.product_scale,
      precision=attention.precision,
      make_terms=make_terms,
      dropout_scale=dropout_scale,
    ),
    Inputs(
      q,
      k,
      attention.v,
      bias=bias,
      scale=attention.scale,
      window=attention.window,
      term_consts=term_consts,
      dropout_consts=dropout_consts,
    ),
  )
