"""The time that a program takes at least on an accelerator."""

from typing import NamedTuple

from slim.targets.accelerators import Accelerator
from slim.targets.matrix_products import MatrixProduct


class Roofline(NamedTuple):
  """Time of matrix products, in seconds.

  Attributes:
    at_least: If each product is computed while its operands are read.
    in_turn: If it is computed after they have been read.
  """

  at_least: float
  in_turn: float


def find_roofline(
  products: list[MatrixProduct], accelerator: Accelerator
) -> Roofline:
  """Bounds the time of matrix products.

  time ≥ Σ max(operations / rate, bytes / bandwidth)

  Each product reads its operands from the memory of the device and writes its
  result there. Everything else is taken to be free, and no device reaches its
  rate, so programs take longer. A program that keeps results on the chip, such
  as a fused softmax attention, may take less.

  Args:
    products: The products, with how often each is computed.
    accelerator: What computes them.

  Returns:
    The times.

  References:
    Williams et al., 2009 (roofline), https://doi.org/10.1145/1498765.1498785.
  """
  at_least = in_turn = 0.0
  for x in products:
    compute = x.operations / _rate(accelerator, x.precision)
    traffic = x.num_bytes / accelerator.bandwidth
    at_least += x.times * max(compute, traffic)
    in_turn += x.times * (compute + traffic)
  return Roofline(at_least, in_turn)


def _rate(accelerator, precision):
  """Returns operations per second."""
  if precision == "default":  # For float32, JAX leaves this to the device.
    precision = "bfloat16" if accelerator.gpu is None else "tensorfloat32"
  return accelerator.rates[precision]
