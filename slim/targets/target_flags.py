"""The flags that choose a target."""

from collections.abc import Callable

from absl import flags

from slim.targets.accelerators import ACCELERATORS
from slim.targets.target import EFFORTS, Target
from slim.targets.topologies import start_no_accelerator


def define_target() -> Callable[[], Target]:
  """Defines --target and --effort.

  Returns:
    A function that reads the flags once they are parsed. If they name a target,
    JAX starts the CPU only, so call it before JAX looks for devices. It raises
    ValueError if there is no such target.
  """
  name = flags.DEFINE_string(
    "target",
    "",
    f"Compile for cpu, {', '.join(ACCELERATORS)}; empty: for this machine.",
  )
  effort = flags.DEFINE_enum(
    "effort",
    EFFORTS[0],
    EFFORTS,
    "Effort of the compiler for TPUs. More effort takes minutes, and finds "
    "programs that need less memory.",
  )

  def read() -> Target:
    try:
      target = Target(name.value, effort.value)
    except ValueError as error:
      raise ValueError(f"--{error}") from error
    if target.name:
      start_no_accelerator()
    return target

  return read
