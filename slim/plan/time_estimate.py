"""Predict the time of a gradient.

Matrix products take time. So does memory traffic, because every chunk reads the
weights and adds to their gradients:

  time / time of full  =  work / 3 F  +  N · passes · bytes of weights / speed

F is the work of a forward pass. Devices that compute much faster than they read
need longer chunks.
"""

from slim.plan.gradient_choice import GradientChoice
from slim.targets import Target

# Work in forward passes, by method and, for "slim", by policy.
_METHOD_WORK = {"full": 3, "remat": 4}
_POLICY_WORK = {"rewind": 4, "store": 4, "sqrt": 5}

# How often a chunk reads or writes the weights or their gradients.
_PASSES = 6

# Operations of matrix products in the time that a byte takes, in float32. The
# number for two x86 cores is fitted to `experiments/plan_accuracy.py` and
# `experiments/step_time.py`. The others are those of an H100 and a v5e, for
# devices that are none of `ACCELERATORS`.
_OPERATIONS_PER_BYTE = {"cpu": 3, "gpu": 20, "tpu": 40}


def estimate_time(
  choice: GradientChoice,
  *,
  num_chunks: int,
  weight_bytes: int,
  flops: int,
  target: Target,
) -> float:
  """Predicts time relative to "full" without reversible layers.

  Args:
    choice: How the gradient is computed.
    num_chunks: Number of chunks that a batch is cut into.
    weight_bytes: Bytes of all parameters.
    flops: F, floating-point operations of one forward pass over the batch.
    target: What computes it.

  Returns:
    The relative time.
  """
  if choice.method == "slim" and choice.policy is not None:
    work = _POLICY_WORK[choice.policy]
    operations_per_byte = _operations_per_byte(target)
    num_bytes = num_chunks * _PASSES * weight_bytes
    traffic = num_bytes * operations_per_byte / (3 * flops)
  else:
    work = _METHOD_WORK[choice.method]
    traffic = 0.0
  work += choice.reversible
  return work / 3 + traffic


def _operations_per_byte(target):
  """Returns how many operations take the time of a byte, in float32."""
  device = target.accelerator
  if device is None:
    return _OPERATIONS_PER_BYTE.get(target.platform, 20)
  return device.rates["float32"] / device.bandwidth
