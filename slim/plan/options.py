"""The ways to compute one gradient, and how long each should take.

Time is counted in the work of matrix products and, as each chunk reads the
weights and adds to their gradients, in what passes through the memory:

  time / time of full  =  work / 3 F  +  N · passes · bytes of weights / speed

A device that computes much faster than it reads needs longer chunks.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import jax

_SMALLEST_CHUNK = 16  # Tokens; what smaller ones save is next to nothing.

# Forward passes' worth of work, by method or, of slim, by policy.
_WORK = {"full": 3, "remat": 4, "rewind": 4, "store": 4, "sqrt": 5}

# How often a chunk goes through the weights, or their gradients.
_PASSES = 6

# Operations of matrix products in the time that a byte takes: of two x86 cores,
# fitted to what `experiments/plan_accuracy.py` and `step_time.py` measure; of
# others by their data sheets, in float32.
_OPERATIONS_A_BYTE = {"cpu": 3, "gpu": 20, "tpu": 50}


class Option(NamedTuple):
  """A way to compute the gradient."""

  method: str  # "full", "remat" or "slim".
  chunk_size: int | None  # C; of "slim", as the policy.
  policy: str | None
  reversible: bool

  @property
  def arguments(self) -> dict[str, int | str]:
    """Those of `slim.kernels.scan`."""
    return {"chunk_size": self.chunk_size, "policy": self.policy}

  def cut(self, length: int) -> tuple[int, int]:
    """C and N for T tokens; of what has no chunks, T and 1."""
    size = self.chunk_size or length
    return size, -(-length // size)

  @property
  def name(self) -> str:
    """What it is, but for the chunk size."""
    name = f"slim, {self.policy}" if self.method == "slim" else self.method
    return f"{name}, reversible" if self.reversible else name

  def __str__(self) -> str:
    """What it is, in a sentence."""
    is_cut = self.method == "slim"
    return f"{self.name}, C = {self.chunk_size}" if is_cut else self.name


def list_options(
  length: int, *, policies: Sequence[str], remat: bool, reversible: bool
) -> Iterator[Option]:
  """Lists what may be chosen.

  Args:
    length: T, tokens. C is a power of two below it.
    policies: Those that the model can have; none: it has no chunks.
    remat: Whether "remat" is possible.
    reversible: Whether the layers are.

  Yields:
    The options. Of those that take the same time, what needs less memory comes
    first.
  """
  yield Option("full", None, None, reversible)
  if remat:
    yield Option("remat", None, None, reversible)
  for policy in policies:
    chunk_size = _SMALLEST_CHUNK
    while chunk_size < length:
      yield Option("slim", chunk_size, policy, reversible)
      chunk_size *= 2


def relative_time(
  option: Option, *, num_chunks: int, weight_bytes: int, flops: int
) -> float:
  """Predicts the time of a gradient over that of "full", not reversible.

  Args:
    option: The option.
    num_chunks: How many chunks a batch is cut into, one after the other.
    weight_bytes: Of all parameters.
    flops: F, of one forward pass over the batch.

  Returns:
    The time.
  """
  is_cut = option.method == "slim"
  work = _WORK[option.policy if is_cut else option.method] + option.reversible
  traffic = 0.0
  if is_cut:
    balance = _OPERATIONS_A_BYTE.get(jax.default_backend(), 20)
    traffic = num_chunks * _PASSES * weight_bytes * balance / (3 * flops)
  return work / 3 + traffic
