"""Where the chunks of a sequence lie: a short first one, then equal ones."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from slim.kernels.support.shapes import check_positive_int


class Chunks(NamedTuple):
  """The cut of T tokens into N chunks, the remainder first.

  Attributes:
    first_size: Tokens of the first chunk, from 1 to `size`; or 0, to count a
      first chunk of `size` tokens among the later ones.
    size: C, tokens of each later chunk.
    num_later: N - 1.
    axis: The axis of time.
  """

  first_size: int
  size: int
  num_later: int
  axis: int

  @classmethod
  def of(cls, xs: Any, chunk_size: int, axis: int) -> "Chunks":
    """Cuts the sequence in `xs`; ValueError where it or C does not fit."""
    size = check_positive_int("chunk_size", chunk_size)
    lengths: dict[int, str] = {}
    for path, x in jax.tree_util.tree_leaves_with_path(xs):
      name = "xs" + jax.tree_util.keystr(path)
      if not 0 <= axis < jnp.ndim(x):
        raise ValueError(
          f"{name} must have a time axis {axis}, got shape {jnp.shape(x)}"
        )
      lengths.setdefault(jnp.shape(x)[axis], name)
    if len(lengths) != 1:
      found = ", ".join(f"{name} has {n}" for n, name in lengths.items())
      raise ValueError(
        "the arrays in xs must have one common number of tokens along axis "
        f"{axis}, got {found or 'no arrays'}"
      )
    ((length, name),) = lengths.items()
    if length == 0:
      raise ValueError(
        f"{name} must have at least 1 token along axis {axis}, got none: skip "
        "the call for an empty sequence"
      )
    num_later = -(-length // size) - 1
    return cls(length - num_later * size, size, num_later, axis)

  def merge_equal(self) -> "Chunks":
    """Counts a first chunk of C tokens among the later ones.

    One program then serves all chunks, and none has to stand outside a loop.
    """
    if self.first_size < self.size:
      return self
    return self._replace(first_size=0, num_later=self.num_later + 1)

  def check_out(self, out: Any, name: str, remedy: str) -> None:
    """Refuses an output without a time axis.

    Args:
      out: Pytree of arrays or of their shapes.
      name: What `out` is, for the message; {} stands for the path of a leaf.
      remedy: What to do, for the message.

    Raises:
      ValueError: If a leaf has no time axis.
    """
    for path, x in jax.tree_util.tree_leaves_with_path(out):
      if len(x.shape) <= self.axis:
        raise ValueError(
          f"{name.format(jax.tree_util.keystr(path))} must have a time axis "
          f"{self.axis}, got shape {x.shape}; {remedy}"
        )

  def first(self, xs: Any, start: jax.Array | int = 0) -> Any:
    """The first chunk of each array; `start` is 0, known now or later."""
    return self._cut(xs, start, self.first_size)

  def later(self, xs: Any, i: jax.Array | int) -> Any:
    """Chunk 1 + i of each array, cut out by its index."""
    return self._cut(xs, self.first_size + i * self.size, self.size)

  def _cut(self, xs, start, size):
    return jax.tree.map(
      lambda x: jax.lax.dynamic_slice_in_dim(
        x, start, size, self.axis, allow_negative_indices=False
      ),
      xs,
    )

  def stack_later(self, xs: Any) -> Any:
    """All later chunks of each array, stacked on a new leading axis."""

    def stack(x):
      x = jax.lax.slice_in_dim(x, self.first_size, None, axis=self.axis)
      shape = (*x.shape[: self.axis], self.num_later, self.size)
      x = x.reshape(*shape, *x.shape[self.axis + 1 :])
      return jnp.moveaxis(x, self.axis, 0)

    return jax.tree.map(stack, xs)

  def unstack(self, first: Any, later: Any) -> Any:
    """Joins a first chunk, or None, and stacked later ones along time."""

    def flatten(x):
      x = jnp.moveaxis(x, 0, self.axis)
      before, (count, size, *after) = x.shape[: self.axis], x.shape[self.axis :]
      return x.reshape(*before, count * size, *after)

    later = jax.tree.map(flatten, later)
    if first is None:
      return later
    return jax.tree.map(
      lambda *pieces: jnp.concatenate(pieces, self.axis), first, later
    )
