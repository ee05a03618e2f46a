"""Compile for accelerators that this machine does not have.

    compiled = Target("cuda:h100").compile(fn, *args)

XLA needs no device to compile for one: what it assigns memory to, and how much,
is what it would be on the device.
"""

from slim.targets.accelerators import ACCELERATORS, Accelerator
from slim.targets.target import HERE, DoesNotFitError, Target

__all__ = [
  "ACCELERATORS",
  "HERE",
  "Accelerator",
  "DoesNotFitError",
  "Target",
]
