"""Whether a run fits into the memory that is left, before it starts."""

import math
import os

import jax

from slim.config.byte_sizes import format_size
from slim.plan.search import process_bytes
from slim.targets import HERE
from slim.training.compiled import CompiledSteps
from slim.training.shapes import tree_bytes
from slim.types import Batch, TrainState

# Limit and use of a group of processes, and the statistics with the memory that
# the system can take back; for both versions of cgroups.
_FILES = {
  "": ("memory.max", "memory.current", "memory.stat"),
  "memory": ("memory.limit_in_bytes", "memory.usage_in_bytes", "memory.stat"),
}


def list_resident_bytes(state: TrainState, batch: Batch) -> dict[str, int]:
  """Lists what is in memory during a gradient, besides its activations.

  Args:
    state: A state, or its shapes.
    batch: A batch, or its shapes.

  Returns:
    Bytes by name.
  """
  return {
    "parameters": tree_bytes(state.params),
    "their gradients": tree_bytes(state.params),
    "the optimizer": tree_bytes(state.opt_state),
    "the batch": tree_bytes(batch),
  }


def check_state_fits(state: TrainState) -> None:
  """Raises if a state does not fit. Call it before the state is allocated.

  Args:
    state: Its shapes.

  Raises:
    ValueError: It says what is needed and what is left.
  """
  sizes = {
    "parameters": tree_bytes(state.params),
    "the optimizer": tree_bytes(state.opt_state),
  }
  _check("the run", state, sizes, "lower config.model.width or num_layers")


def check_steps_fit(
  state: TrainState, batch: Batch, compiled: CompiledSteps
) -> None:
  """Raises if an update does not fit. Call it when the state is allocated.

  Args:
    state: The state, or its shapes.
    batch: A batch, or its shapes.
    compiled: The steps.

  Raises:
    ValueError: It says what is needed and what is left.
  """
  update_bytes = HERE.temporary_bytes(compiled.update)  # type: ignore[arg-type]
  sizes = {
    "gradients": tree_bytes(state.params),
    "the batch": tree_bytes(batch),
    "activations": max(
      update_bytes, *(x.activation_bytes for x in compiled.gradients.values())
    ),
  }
  budget = format_size(_budget(state), math.floor).replace(" ", "")
  _check(
    "an update",
    state,
    sizes,
    "find a gradient that fits by `python -m slim.plan --config=… "
    f"--budget={budget}`",
  )


def free_bytes() -> int | None:
  """Returns the memory that is left on the first device.

  Returns:
    Bytes; on CPUs, of the machine, or of the group of processes if it may use
    less. None if that is unknown.
  """
  stats = jax.local_devices()[0].memory_stats()
  if stats and "bytes_limit" in stats:
    return stats["bytes_limit"] - stats["bytes_in_use"]
  found = [_free_of_machine(), *map(_free_of_group, _list_groups())]
  return min((x for x in found if x is not None), default=None)


def _budget(state):
  """Returns the budget for `slim.plan`, which has allocated no state."""
  if HERE.platform == "cpu":
    allocated = process_bytes()
  else:
    allocated = tree_bytes((state.params, state.opt_state))
  return (free_bytes() or 0) // _count_sharing(state) + allocated


def _count_sharing(state):
  """Counts the devices of this process that share the memory of the machine."""
  if HERE.platform == "cpu" and state.step.sharding is not None:
    return len(state.step.sharding.addressable_devices)
  return 1


def _check(what, state, sizes, advice):
  """Raises if the sizes are more than what is left."""
  sizes = {name: _count_sharing(state) * n for name, n in sizes.items()}
  free, total = free_bytes(), sum(sizes.values())
  if free is not None and total > free:
    listed = ", ".join(f"{name} {format_size(n)}" for name, n in sizes.items())
    raise ValueError(
      f"{what} needs {format_size(total)} ({listed}), and {_place()} has "
      f"{format_size(free)} left: {advice}"
    )


def _place():
  """Names where the memory is."""
  device = jax.local_devices()[0]
  return "the machine" if device.platform == "cpu" else device.device_kind


def _free_of_machine():
  """What Linux could give without swapping."""
  for line in _read("/proc/meminfo").splitlines():
    if line.startswith("MemAvailable:"):
      return int(line.split()[1]) * 1024
  return None


def _list_groups():
  """Lists (version, path) of the groups that this process belongs to."""
  groups = {("", "/"), ("memory", "/")}
  for line in _read("/proc/self/cgroup").splitlines():
    _, controllers, path = line.split(":", 2)
    if controllers == "" or "memory" in controllers.split(","):
      version = "memory" if controllers else ""
      while path != "/":  # A limit of a group above counts, too.
        groups.add((version, path))
        path = os.path.dirname(path)
  return sorted(groups)


def _free_of_group(group):
  """What a group of processes may still use; None if there is no limit."""
  version, path = group
  folder = os.path.join("/sys/fs/cgroup", version, path.lstrip("/"))
  limit, used, stat = (
    _read(os.path.join(folder, name)) for name in _FILES[version]
  )
  if not (limit.strip().isdecimal() and used.strip().isdecimal()):
    return None
  can_be_dropped = [
    int(line.split()[1])
    for line in stat.splitlines()
    if line.startswith(("inactive_file ", "active_file "))
  ]
  return int(limit) - int(used) + sum(can_be_dropped)


def _read(path):
  """Reads a file of the system, which need not exist."""
  try:
    with open(path, encoding="utf-8") as file:
      return file.read()
  except OSError:
    return ""
