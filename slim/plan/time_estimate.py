"""Predict the time of a gradient.

Matrix products take time. So does memory traffic, because every chunk reads the
weights and adds to their gradients. For a known accelerator, both are those of
its roofline:

  time  =  work · time of the products of all chunks,

with the work in forward passes. For other devices,

  time / time of full  =  work / 3 F  +  N · passes · bytes of weights / speed

where F is the work of a forward pass. Devices that compute much faster than
they read need longer chunks.
"""

from collections.abc import Callable
from typing import NamedTuple

from slim.plan.gradient_choice import GradientChoice
from slim.targets import Target
from slim.targets.matrix_products import MatrixProduct, count_operations
from slim.targets.roofline import find_roofline

# Work in forward passes, by method and, for "slim", by policy.
_METHOD_WORK = {"full": 3, "remat": 4}
_POLICY_WORK = {"rewind": 4, "store": 4, "sqrt": 5}

# How often a chunk reads or writes the weights or their gradients.
_PASSES = 6

# Operations of matrix products in the time that a byte takes, in float32. The
# number for two x86 cores is fitted to `experiments/plan_accuracy.py` and
# `experiments/step_time.py`. The others are those of an H100 and a v5e.
_OPERATIONS_PER_BYTE = {"cpu": 3, "gpu": 20, "tpu": 40}


class PredictedTime(NamedTuple):
  """The predicted time of one update.

  Attributes:
    relative: Time divided by that of "full" without reversible layers.
    at_least: A lower bound in seconds; None for an unknown device, or if there
      are no matrix products.
  """

  relative: float
  at_least: float | None = None


def estimate_time(
  choice: GradientChoice,
  *,
  length: int,
  products: Callable[[int], list[MatrixProduct]],
  weight_bytes: int,
  target: Target,
  num_parts: int = 1,
) -> PredictedTime:
  """Predicts the time of a gradient.

  Args:
    choice: How the gradient is computed.
    length: T, tokens.
    products: `products(C)`, the matrix products of a forward pass over C
      tokens.
    weight_bytes: Bytes of all parameters.
    target: What computes it.
    num_parts: How many parts of a batch are differentiated in turn; `products`
      are those of one.

  Returns:
    The time.
  """
  chunk_size, num_chunks = choice.cut(length)
  if choice.method == "slim" and choice.policy is not None:
    work, passes = _POLICY_WORK[choice.policy], _PASSES
  else:
    work, passes = _METHOD_WORK[choice.method], 0
  work += choice.reversible
  device = target.accelerator
  if device is not None:
    full = find_roofline(products(length), device)
    if not full.in_turn:
      return PredictedTime(work / 3)
    chunk = find_roofline(products(chunk_size), device)
    shortest = length - (num_chunks - 1) * chunk_size
    first = find_roofline(products(shortest), device)
    in_turn = first.in_turn + (num_chunks - 1) * chunk.in_turn
    at_least = first.at_least + (num_chunks - 1) * chunk.at_least
    # Recomputation may be less than its bound, which is in `work`.
    return PredictedTime(
      work * in_turn / (3 * full.in_turn), num_parts * 3 * at_least
    )
  # At least one product with each weight per token.
  flops = max(count_operations(products(length)), weight_bytes // 2 * length, 1)
  operations_per_byte = _OPERATIONS_PER_BYTE.get(target.platform, 20)
  num_bytes = num_chunks * passes * weight_bytes
  return PredictedTime(work / 3 + num_bytes * operations_per_byte / (3 * flops))
