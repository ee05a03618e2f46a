"""Devices that this machine does not have, for XLA to compile for."""

import contextlib
import math
import os
from collections.abc import Iterator

import jax
from jax.experimental import topologies

from slim.targets.accelerators import GPU, Accelerator

# What libtpu asks Google's cloud for, and how it says that there is none. Its
# lock keeps two processes from one TPU, and there is none.
_NO_TPU = {
  "TPU_SKIP_MDS_QUERY": "1",
  "TPU_WORKER_HOSTNAMES": "localhost",
  "TPU_ACCELERATOR_TYPE": "v5litepod-1",
  "TPU_MIN_LOG_LEVEL": "3",
  "TPU_STDERR_LOG_LEVEL": "3",
  "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}
# Limits of all NVIDIA GPUs that XLA compiles for.
_SPEC = """
gpu_device_info {{
  threads_per_block_limit: 1024
  threads_per_warp: 32
  shared_memory_per_block: 49152
  shared_memory_per_core: {gpu.shared_bytes}
  shared_memory_per_block_optin: {largest_block}
  threads_per_core_limit: {gpu.threads}
  core_count: {gpu.num_sms}
  fpus_per_core: {gpu.lanes}
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
  memory_bandwidth: {bandwidth}
  l2_cache_size: {gpu.l2_bytes}
  clock_rate_ghz: {gpu.clock_ghz}
  device_memory_size: {memory_bytes}
  cuda_compute_capability {{ major: {major} minor: {minor} }}
}}
platform_name: "CUDA"
dnn_version_info {{ major: 9 minor: 10 }}
device_description_str: "{gpu.name}"
"""


def start_no_accelerator() -> None:
  """Lets JAX start the CPU only, and its plugins say nothing about the others.

  Call it before JAX looks for devices.
  """
  os.environ.update(_NO_TPU, TF_CPP_MIN_LOG_LEVEL="3")
  jax.config.update("jax_platforms", "cpu")


def describe_devices(
  name: str, accelerator: Accelerator, count: int
) -> list[jax.Device]:
  """Makes the devices that XLA compiles for.

  Args:
    name: A key of `ACCELERATORS`.
    accelerator: Its value.
    count: How many: on TPUs, chips in a grid that is nearly square.

  Returns:
    Devices that arrays' shapes can be placed on, and no arrays.

  Raises:
    ValueError: If a package is missing. It says which to install.
  """
  platform, _, model = name.partition(":")
  with _one_line(name, platform):
    if accelerator.gpu is None:
      os.environ.update(_NO_TPU)
      width = max(n for n in range(1, math.isqrt(count) + 1) if count % n == 0)
      grid = (width, count // width, 1)
      # Where a chip is two devices, there are more than needed.
      return topologies.get_topology_desc(
        platform="tpu",
        topology_name=f"{model}:{'x'.join(map(str, grid))}",
        chips_per_host_bounds=grid,
      ).devices[:count]
    return topologies.get_topology_desc(
      platform="cuda",
      topology_name="any",  # XLA wants one, but not "gpu".
      topology=f"1x1x{count}",
      target_config=_spec(accelerator, accelerator.gpu),
    ).devices


def install_command(platform: str) -> str:
  """Returns the command that installs XLA's compiler for a platform."""
  packages = {
    "cuda": f"jax-cuda12-plugin=={jax.__version__} nvidia-cuda-nvcc-cu12",
    "tpu": f"'jax[tpu]=={jax.__version__}'",
  }
  return f"`pip install {packages[platform]}`"


@contextlib.contextmanager
def _one_line(name: str, platform: str) -> Iterator[None]:
  """Turns errors of missing packages into one line."""
  try:
    yield
  # JAX raises NotImplementedError if a plugin is missing.
  except (RuntimeError, NotImplementedError) as error:
    reason = str(error).splitlines()[0]
    advice = f"{install_command(platform)}, and set JAX_PLATFORMS=cpu"
    if "lockfile" in reason:
      advice = "end the process that holds libtpu, or wait for it"
    raise ValueError(
      f"target {name} needs XLA's compiler for it, got {reason!r}: {advice}"
    ) from error


def _spec(accelerator: Accelerator, gpu: GPU) -> str:
  """Writes the facts of a GPU as XLA reads them, a GpuTargetConfigProto."""
  major, minor = gpu.capability
  return _SPEC.format(
    gpu=gpu,
    largest_block=gpu.shared_bytes - 1024,  # XLA keeps 1 KiB.
    bandwidth=int(accelerator.bandwidth),
    memory_bytes=accelerator.memory_bytes,
    major=major,
    minor=minor,
  )
