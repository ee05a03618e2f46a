"""Compile a function for a device, whether or not this machine has it."""

import dataclasses
import functools
import os
import re
from collections.abc import Callable, Mapping
from typing import Any

import jax
from jax.sharding import NamedSharding, SingleDeviceSharding

from slim.targets.accelerators import ACCELERATORS, Accelerator
from slim.targets.topologies import describe_devices, install_command

# Of the compiler for TPUs.
EFFORTS = ("O0", "O1", "O2", "O3")
# The variables of JAX, the new one first.
_MEMORY_SHARES = "XLA_CLIENT_MEM_FRACTION", "XLA_PYTHON_CLIENT_MEM_FRACTION"
_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
_TOO_LARGE = re.compile(
  r"\(([\d.]+)([KMGT]?)\) exceeds available HBM \(([\d.]+)([KMGT]?)\)"
)


class DoesNotFitError(ValueError):
  """A program needs more memory than its target has.

  Attributes:
    temporary_bytes: Its temporary memory.
  """

  def __init__(self, name: str, temporary_bytes: int, memory_bytes: int):
    """Makes the error."""
    self.temporary_bytes = temporary_bytes
    super().__init__(
      f"does not fit {name}: needs {temporary_bytes / 2**30:,.2f} GiB of "
      f"{memory_bytes / 2**30:,.2f} GiB for temporary memory alone"
    )


@dataclasses.dataclass(frozen=True)
class Target:
  """What programs are compiled for.

  Attributes:
    name: "cpu", or a key of `ACCELERATORS` such as "tpu:v5e"; "": the first
      device of this machine.
    effort: Of the compiler for TPUs, "O0" to "O3". More effort takes many times
      as long, and finds some percent less memory.

  Raises:
    ValueError: If there is no such target or effort.
  """

  name: str = ""
  effort: str = "O0"

  def __post_init__(self) -> None:
    """Checks the attributes."""
    if self.name not in ("", "cpu", *ACCELERATORS):
      raise ValueError(
        f"target must be one of cpu, {', '.join(ACCELERATORS)}, got "
        f"{self.name!r}"
      )
    if self.effort not in EFFORTS:
      raise ValueError(
        f"effort must be one of {', '.join(EFFORTS)}, got {self.effort!r}"
      )

  @property
  def accelerator(self) -> Accelerator | None:
    """Facts of the device; None for one of this machine."""
    return ACCELERATORS.get(self.name)

  @property
  def memory_bytes(self) -> int | None:
    """What JAX lets a program use; None for a device of this machine.

    On GPUs, JAX takes 75 % of the memory, unless the environment variable
    `XLA_CLIENT_MEM_FRACTION` says otherwise.
    """
    device = self.accelerator
    if device is None:
      return None
    if device.gpu is None:
      return device.memory_bytes
    name = next((x for x in _MEMORY_SHARES if os.environ.get(x)), "")
    text = os.environ.get(name, "0.75")
    try:
      return int(float(text) * device.memory_bytes)
    except ValueError:
      raise ValueError(
        f"{name} must be a number, the share of a GPU's memory that JAX takes, "
        f"got {text!r}"
      ) from None

  @property
  def platform(self) -> str:
    """That of the device: "cpu", "gpu" or "tpu"."""
    return self._device.platform

  @functools.cached_property
  def _device(self) -> jax.Device:
    """The device, or the first of several."""
    return self.devices(1)[0]

  def devices(self, count: int) -> list[jax.Device]:
    """Returns devices of this kind.

    Args:
      count: How many, at least.

    Returns:
      The devices; all of this machine, if it is the target.
    """
    if self.accelerator is not None:
      return describe_devices(self.name, self.accelerator, count)
    return jax.devices(self.name or None)

  def compile(
    self,
    fn: Callable[..., Any],
    *args: Any,
    options: Mapping[str, Any] | None = None,
  ) -> jax.stages.Compiled:
    """Compiles a function.

    Args:
      fn: The function. Pass a jitted one to respect its donations.
      *args: Its arguments: arrays, or `jax.ShapeDtypeStruct`s. Those with a
        sharding stay where they are.
      options: Of the compiler, as for `jax.jit`.

    Returns:
      The program. It can be run if this machine has the device.

    Raises:
      DoesNotFitError: If the compiler refuses a program of this size, which
        only that for TPUs does.
      ValueError: If the compiler for the target is not installed.
    """
    # A second `jax.jit` would drop the donations of the first one.
    jitted = fn if hasattr(fn, "lower") else jax.jit(fn)
    options = dict(options or {})
    if self.name:
      args = self._place(args)
    if self.accelerator is not None and self.platform == "tpu":
      options["xla_optimization_level"] = f"EFFORT_{self.effort}"
    lowered = jitted.lower(*args)
    try:
      return lowered.compile(options)
    except jax.errors.JaxRuntimeError as error:
      raise self.explain(error) from error

  def temporary_bytes(self, compiled: jax.stages.Compiled) -> int:
    """Returns the temporary memory of a program of this target.

    Args:
      compiled: The program.

    Returns:
      Bytes: all that is neither an argument nor an output.
    """
    memory: Any = compiled.memory_analysis()
    if self.platform != "tpu":
      # Not the peak, which on CPUs omits temporary buffers.
      return memory.temp_size_in_bytes
    # Temporary memory of TPUs includes buffers that are never live together.
    kept = memory.argument_size_in_bytes + memory.output_size_in_bytes
    return memory.peak_memory_in_bytes - kept + memory.alias_size_in_bytes

  def _place(self, args: Any) -> Any:
    """Replaces arguments by their shapes, on the device."""
    sharding = SingleDeviceSharding(self._device)

    def place(x, like):
      of_like = getattr(like, "sharding", None)
      if isinstance(of_like, NamedSharding):
        return like
      return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)

    return jax.tree.map(place, jax.eval_shape(lambda *args: args, *args), args)

  def explain(self, error: Exception) -> Exception:
    """Returns the error to raise in place of one of the compiler.

    Args:
      error: What the compiler raised.

    Returns:
      An error in one line that says what to do, if there is one; or `error`.
    """
    message = str(error)
    if match := _TOO_LARGE.search(message):
      sizes = [int(float(match[i]) * _UNITS[match[i + 1]]) for i in (1, 3)]
      return DoesNotFitError(self.name or self.platform, *sizes)
    if "No PTX compilation provider" in message:
      return ValueError(
        f"target {self.name} needs the programs ptxas and libdevice: "
        f"{install_command('cuda')}"
      )
    return error


HERE = Target()  # The first device of this machine.
