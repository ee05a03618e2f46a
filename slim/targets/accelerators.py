"""Accelerators: their memory and speed, and what XLA must know of a GPU.

Rates are those of the data sheets, without sparsity; a multiplication and its
addition are 2 operations.
"""

from typing import NamedTuple


class GPU(NamedTuple):
  """Facts of an NVIDIA GPU that XLA compiles for.

  Attributes:
    name: As the driver gives it.
    capability: The compute capability, (major, minor).
    num_sms: Streaming multiprocessors (SMs).
    threads: Resident threads of an SM.
    lanes: float32 lanes of an SM.
    shared_bytes: Shared memory of an SM.
    l2_bytes: The L2 cache.
    clock_ghz: Highest clock of the SMs.
  """

  name: str
  capability: tuple[int, int]
  num_sms: int
  threads: int
  lanes: int
  shared_bytes: int
  l2_bytes: int
  clock_ghz: float


class Accelerator(NamedTuple):
  """A device that programs can be compiled for.

  Attributes:
    memory_bytes: Memory of the device; on TPUs, what XLA may use of it.
    bandwidth: Memory bandwidth, bytes per second.
    rates: Operations of matrix products per second, by their precision:
      "float32", "tensorfloat32" or "bfloat16".
    source: The document that states these numbers.
    gpu: Further facts of a GPU; None for a TPU.
  """

  memory_bytes: int
  bandwidth: float
  rates: dict[str, float]
  source: str
  gpu: GPU | None = None


def _tpu(gib, bandwidth, bfloat16, source):
  """A TPU, which multiplies float32 in 6 passes of bfloat16, or in 3."""
  rates = {
    "float32": bfloat16 / 6,
    "tensorfloat32": bfloat16 / 3,
    "bfloat16": bfloat16,
  }
  source = f"https://docs.cloud.google.com/tpu/docs/{source}; XLA's message"
  return Accelerator(int(gib * 2**30), bandwidth, rates, source)


def _gpu(memory_bytes, bandwidth, rates, source, **facts):
  """A GPU; rates in teraflops, for float32, tensorfloat32 and bfloat16."""
  names = ("float32", "tensorfloat32", "bfloat16")
  by_name = {n: x * 1e12 for n, x in zip(names, rates, strict=True)}
  return Accelerator(memory_bytes, bandwidth, by_name, source, GPU(**facts))


_XLA = (
  "https://github.com/openxla/xla, xla/backends/gpu/target_config/specs/"
  "{}.txtpb; data sheet of the {}"
)
_ADA = (
  "CUDA C++ Programming Guide, compute capability 8.9; data sheet of the {}; "
  "memory as nvidia-smi shows it"
)
_HOPPER = {
  "capability": (9, 0),
  "num_sms": 132,
  "threads": 2048,
  "lanes": 128,
  "shared_bytes": 233_472,
  "l2_bytes": 52_428_800,
  "clock_ghz": 1.98,
}
_ADA_SM = {
  "capability": (8, 9),
  "threads": 1536,
  "lanes": 128,
  "shared_bytes": 102_400,
}

# A device that XLA compiles for here is half a chip of v4 and of tpu7x.
ACCELERATORS = {
  "cuda:a100": _gpu(
    85_100_068_864,
    2.039e12,
    (19.5, 156, 312),
    _XLA.format("a100_sxm_80", "A100"),
    name="NVIDIA A100-SXM4-80GB",
    capability=(8, 0),
    num_sms=108,
    threads=2048,
    lanes=64,
    shared_bytes=167_936,
    l2_bytes=41_943_040,
    clock_ghz=1.41,
  ),
  "cuda:h100": _gpu(
    84_942_979_072,
    3.352e12,
    (66.9, 494.5, 989),
    _XLA.format("h100_sxm", "H100"),
    name="NVIDIA H100 80GB HBM3",
    **_HOPPER,
  ),
  "cuda:h200": _gpu(
    151_397_597_184,
    4.8e12,
    (66.9, 494.5, 989),
    _XLA.format("h200", "H200"),
    name="NVIDIA H200 141GB HBM3e",
    **_HOPPER,
  ),
  "cuda:b200": _gpu(
    191_514_411_008,
    7.672e12,
    (74.4, 1113, 2225),
    _XLA.format("b200", "B200"),
    name="NVIDIA B200",
    capability=(10, 0),
    num_sms=148,
    threads=2048,
    lanes=128,
    shared_bytes=233_472,
    l2_bytes=132_644_864,
    clock_ghz=1.965,
  ),
  "cuda:l4": _gpu(
    24_152_899_584,
    0.3e12,
    (30.3, 60, 121),
    _ADA.format("L4"),
    name="NVIDIA L4",
    num_sms=58,
    l2_bytes=50_331_648,
    clock_ghz=2.04,
    **_ADA_SM,
  ),
  "cuda:rtx4090": _gpu(
    25_757_220_864,
    1.008e12,
    (82.6, 82.6, 165.2),
    _ADA.format("GeForce RTX 4090"),
    name="NVIDIA GeForce RTX 4090",
    num_sms=128,
    l2_bytes=75_497_472,
    clock_ghz=2.52,
    **_ADA_SM,
  ),
  "tpu:v4": _tpu(15.25, 0.614e12, 137.5e12, "v4"),
  "tpu:v5e": _tpu(15.75, 0.819e12, 197e12, "v5e"),
  "tpu:v5p": _tpu(95.74, 2.765e12, 459e12, "v5p"),
  "tpu:v6e": _tpu(31.25, 1.64e12, 918e12, "v6e"),
  "tpu:tpu7x": _tpu(94.75, 3.69e12, 1153.5e12, "tpu7x"),
}
