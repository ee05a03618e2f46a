"""The ways to compute one gradient."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

_SMALLEST_CHUNK = 16  # Tokens. Smaller chunks save almost no memory.


class GradientChoice(NamedTuple):
  """A way to compute a gradient.

  Attributes:
    method: "full", "remat" or "slim".
    chunk_size: C, for "slim".
    policy: Policy of `slim.kernels.scan`, for "slim".
    reversible: Whether the layers are reversible.
  """

  method: str
  chunk_size: int | None
  policy: str | None
  reversible: bool

  @property
  def scan_arguments(self) -> dict[str, Any]:
    """Keyword arguments of `slim.kernels.scan`."""
    return {"chunk_size": self.chunk_size, "policy": self.policy}

  def cut(self, length: int) -> tuple[int, int]:
    """Returns (C, N) for T tokens; (T, 1) without chunks."""
    chunk_size = self.chunk_size or length
    return chunk_size, -(-length // chunk_size)

  @property
  def name(self) -> str:
    """Method, policy and kind of layers, without the chunk size."""
    name = f"slim, {self.policy}" if self.method == "slim" else self.method
    return f"{name}, reversible" if self.reversible else name

  def __str__(self) -> str:
    """Describes the choice in a sentence."""
    has_chunks = self.method == "slim"
    return f"{self.name}, C = {self.chunk_size}" if has_chunks else self.name


def list_choices(
  length: int, *, policies: Sequence[str], remat: bool, reversible: bool
) -> Iterator[GradientChoice]:
  """Lists the ways to compute a gradient.

  Args:
    length: T, tokens. C is a power of two below T.
    policies: The policies that the model supports. Empty if it has no chunks.
    remat: Whether the method "remat" is supported.
    reversible: Whether the layers are reversible.

  Yields:
    The choices. Among choices with the same predicted time, those with less
    memory come first.
  """
  yield GradientChoice("full", None, None, reversible)
  if remat:
    yield GradientChoice("remat", None, None, reversible)
  for policy in policies:
    chunk_size = _SMALLEST_CHUNK
    while chunk_size < length:
      yield GradientChoice("slim", chunk_size, policy, reversible)
      chunk_size *= 2
