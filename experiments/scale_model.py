"""When sequence parallelism pays: a model of compute and communication.

P devices share a sequence of T tokens in chunks of P·C. Each layer exchanges
its states of S bytes three times a chunk: once in the walk forward, and twice
in the walk back. Nothing is overlapped, so the shares are upper bounds.

  compute of a layer and chunk    4 · B · C · 24 · D² operations, for 4 walks
  all-gather, up to 8 devices     latency + (P - 1) S / bandwidth
  two all-to-alls, beyond         2 latency + 3 S (P - 1) / P / bandwidth
  activations of a device         107 · B · C · D bytes a layer, as measured by
                                  scale.py; reversible layers: of one layer
  weights and their gradient      8 bytes a parameter

The latency of a collective is taken to be the same for any size. All
assumptions are flags of one row. Without, the rows are those of docs/scale.md.

  python experiments/scale_model.py [--tokens=1e9 --devices=4096 --width=4096 …]
"""

import math
from typing import Any, NamedTuple

from absl import flags
from arguments import define_count, define_quick
from record import print_table, save

from slim import command_line

_QUICK = define_quick("The same: it takes no time.")
_TOKENS = flags.DEFINE_float(
  "tokens", None, "T. Then one row is printed.", lower_bound=1
)
_DEVICES = flags.DEFINE_integer("devices", 8, "P.", lower_bound=2)
_CHUNK = define_count("chunk_size", 2048, "C.")
_BATCH = define_count("batch_size", 1, "B of a device.")
_WIDTH = define_count("width", 1024, "D.")
_LAYERS = define_count("layers", 24, "L.")
_HEAD = define_count("head_width", 64, "Of a head.")
_RATE = flags.DEFINE_float(
  "rate", 400e12, "Operations a second, reached.", lower_bound=1
)
_BANDWIDTH = flags.DEFINE_float(
  "bandwidth", 400e9, "Of a device, bytes/s.", lower_bound=1
)
_LATENCY = flags.DEFINE_float(
  "latency", 12e-6, "Of a collective, seconds.", lower_bound=0
)
_OF_ONE_ROW = (
  *(_DEVICES, _CHUNK, _BATCH, _WIDTH, _LAYERS, _HEAD),
  *(_RATE, _BANDWIDTH, _LATENCY),
)


class Link(NamedTuple):
  """Devices, and what connects them."""

  name: str
  num_devices: int
  rate: float
  bandwidth: float
  latency: float


_LINKS = (
  Link("8 H100, NVLink, bfloat16", 8, 400e12, 400e9, 12e-6),
  Link("8 H100, NVLink, float32", 8, 45e12, 400e9, 12e-6),
  Link("64 H100, 400 Gb/s each, bfloat16", 64, 400e12, 45e9, 25e-6),
  Link("64 TPU v5p, bfloat16", 64, 275e12, 180e9, 4e-6),
)
_MODELS = {"D = 1024, L = 24": (1024, 24), "D = 4096, L = 32": (4096, 32)}


def main() -> None:
  """Computes, prints and saves."""
  if _TOKENS.value is not None:
    link = Link(
      f"{_DEVICES.value} devices",
      _DEVICES.value,
      _RATE.value,
      _BANDWIDTH.value,
      _LATENCY.value,
    )
    print_table(
      [predict(link, _TOKENS.value, _WIDTH.value, _LAYERS.value, _CHUNK.value)]
    )
    return
  for flag in _OF_ONE_ROW:
    if flag.present:
      raise ValueError(f"--{flag.name} needs --tokens: the tables are fixed")
  rows = [
    {"model": name, **predict(link, 2**20, width, layers, chunk_size)}
    for name, (width, layers) in _MODELS.items()
    for link in _LINKS
    for chunk_size in (512, 2048, 8192)
  ]
  # So many need an exchange in two levels, of nodes and in each.
  large = Link("4,096 H100, 400 Gb/s each, bfloat16", 4096, 400e12, 45e9, 2e-4)
  rows.append(
    {"model": "D = 4096, L = 32", **predict(large, 1e9, 4096, 32, 4096)}
  )
  print_table(rows)
  save("scale_model", rows, quick=_QUICK.value)


def predict(
  link: Link, num_tokens: float, width: int, layers: int, chunk_size: int
) -> dict[str, Any]:
  """Predicts the time of a gradient, and the memory of a device.

  Args:
    link: The devices.
    num_tokens: T.
    width: D.
    layers: L.
    chunk_size: C.

  Returns:
    A row of a table.
  """
  head = _HEAD.value
  num_devices, batch_size = link.num_devices, _BATCH.value
  state = 4 * batch_size * (width // head) * head * (head + 1)
  compute = 4 * batch_size * chunk_size * 24 * width**2 / link.rate
  if num_devices <= 8:
    way, latencies, received = "all-gather", 1, (num_devices - 1) * state
  else:
    way, latencies = "all-to-all", 2
    received = 3 * state * (num_devices - 1) / num_devices
  exchange = 3 * (latencies * link.latency + received / link.bandwidth)
  num_chunks = math.ceil(num_tokens / (num_devices * chunk_size))
  # Gathered and scattered once; what is left to sum is small.
  weights = 12 * layers * width**2
  activation = 107 * batch_size * chunk_size * width / 2**30
  sent_once = 2 * 4 * weights / link.bandwidth
  return {
    "devices": link.name,
    "tokens": int(num_tokens),
    "chunk_size": chunk_size,
    "way": way,
    "chunks": num_chunks,
    "compute_seconds": num_chunks * layers * compute,
    "exchange_seconds": num_chunks * layers * exchange,
    "weights_seconds": sent_once,
    "exchange_percent": 100 * exchange / compute,
    "activation_GiB": layers * activation,
    "reversible_GiB": activation,
    "weights_GiB": 8 * weights / 2**30,
  }


if __name__ == "__main__":
  command_line.run(main)
