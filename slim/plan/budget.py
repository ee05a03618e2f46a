"""The memory that a gradient may take."""

import math

from slim.config.byte_sizes import format_size, parse_size
from slim.targets import Target


def parse_budget(name: str, text: str | None, target: Target) -> int:
  """Returns a budget in bytes.

  Args:
    name: The name of the argument, for the error.
    text: The budget, as in "2GiB"; None: what the target has.
    target: What is compiled for.

  Returns:
    The bytes.

  Raises:
    ValueError: If the budget is no size, is more than the target has, or is
      None and the target is this machine.
  """
  memory = target.memory_bytes
  if text is None:
    if memory is None:
      raise ValueError(
        f"{name} is missing: pass the memory that the gradient may take, as in "
        "2GiB, or a target"
      )
    return memory
  size = parse_size(name, text)
  if memory is not None and size > memory:
    raise ValueError(
      f"{name} must be at most {format_size(memory, math.floor)}, the memory "
      f"of {target.name}, got {text}"
    )
  return size
