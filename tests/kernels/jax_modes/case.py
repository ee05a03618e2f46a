"""A list of calls of kernels, and the sizes that they share.

Other modules add to `CASES` with `@case(...)`.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax

B, T, H, K = 4, 5, 2, 3  # B and H can be sharded over two devices.


class Case(NamedTuple):
  """A call of one kernel."""

  uses: tuple[str, ...]  # Public names.
  fn: Callable[..., Any]  # Maps float arrays to a pytree of arrays.
  shapes: tuple[tuple[int, ...], ...]  # Of the arguments of `fn`.


CASES: dict[str, Case] = {}


def case(uses, *shapes):
  """Adds the function to `CASES`, by its name."""

  def add(fn):
    CASES[fn.__name__[1:]] = Case(tuple(uses.split()), fn, shapes)
    return fn

  return add


BTHK, BTNK, BT = (B, T, H, K), (B, T, 1, K), (B, T)


def keys():
  """Dropout keys, one per sequence."""
  return jax.random.split(jax.random.key(3), B)
