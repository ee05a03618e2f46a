"""Memory and communication of gradients on a mesh of 8 devices.

Eight devices of the CPU stand for eight accelerators. Programs are compiled for
all of them; only the smallest are run, to compare their gradients with those of
one device.

  python experiments/scale.py [--quick] [--parts=memory,collectives]
"""

from collections.abc import Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from arguments import define_names, define_quick, result_name
from jax.sharding import NamedSharding, PartitionSpec
from mesh_gradients import (
  LAYERS,
  compile_gradient,
  make_layout,
  make_narrow_model,
)
from record import measure_in_stretches, print_table, save

from slim import command_line
from slim.certify.gradient_error import largest_error
from slim.kernels import chunked_softmax_attention, ring_attention
from slim.scale import create_mesh
from slim.scale.collectives import list_collectives
from slim.training.gradients import make_value_and_grad
from slim.training.shapes import tree_bytes
from slim.types import Batch

_QUICK = define_quick("One short length and a narrow model: two minutes.")
_PART_NAMES = ("memory", "collectives", "ring", "precision")
_PARTS = define_names("parts", _PART_NAMES, _PART_NAMES, "What to measure.")
_CHUNK_SIZE = 512
_MESHES = ("data=8", "fsdp=8", "sequence=8", "data=2,fsdp=2,sequence=2")


def main() -> None:
  """Measures, prints and saves."""
  quick = _QUICK.value
  parts = {
    "memory": list_memory_cases,
    "collectives": list_collective_cases,
    "ring": list_ring_cases,
    "precision": list_precision_cases,
  }
  cases = [
    (part, *case) for part in _PARTS.value for case in parts[part](quick)
  ]
  name = result_name("scale", _PARTS)
  rows = measure_in_stretches(name, cases, measure, quick=quick)
  for part in _PARTS.value:
    print_table([row for row in rows if row["part"] == part])
  save(name, rows, quick=quick, layers=LAYERS, chunk_size=_CHUNK_SIZE)


def measure(case: tuple[Any, ...]) -> list[dict[str, Any]]:
  """Measures a case of any part."""
  part, *arguments = case
  functions = {
    "memory": measure_memory,
    "collectives": measure_collectives,
    "ring": measure_ring,
    "precision": measure_precision,
  }
  return [{"part": part, **row} for row in functions[part](*arguments)]


def list_memory_cases(quick: bool) -> Iterator[tuple[Any, ...]]:
  """Lists (mesh, method, tokens, width)."""
  width = 64 if quick else 256
  lengths = (4096,) if quick else (65_536, 1_048_576)
  for length in lengths:
    for mesh in ("data=1", "sequence=8"):
      for method in ("slim, rewind", "slim, store", "full"):
        yield mesh, method, length, width
  if not quick:
    for mesh in ("sequence=2", "sequence=4"):
      yield mesh, "slim, rewind", lengths[0], width
    for length in lengths:
      yield "sequence=8", "slim, rewind", length, 1024


def measure_memory(
  mesh: str, method: str, length: int, width: int
) -> Iterator[dict[str, Any]]:
  """Compiles a gradient; its memory is that of one device."""
  compiled, params, _ = compile_gradient(
    mesh, method, length, width, _CHUNK_SIZE
  )
  memory: Any = compiled.memory_analysis()
  yield {
    "mesh": mesh,
    "method": method,
    "tokens": length,
    "width": width,
    "temporary_MiB": memory.temp_size_in_bytes / 2**20,
    "parameters_MiB": tree_bytes(params) / 2**20,
  }


def list_collective_cases(quick: bool) -> Iterator[tuple[Any, ...]]:
  """Lists (mesh, tokens, width)."""
  for mesh in _MESHES:
    yield mesh, 4096 if quick else 65_536, 64 if quick else 256


def measure_collectives(
  name: str, length: int, width: int
) -> Iterator[dict[str, Any]]:
  """Reads what the program of a gradient sends, by axis and kind."""
  compiled, _, mesh = compile_gradient(
    name, "slim, rewind", length, width, _CHUNK_SIZE, batch_size=8
  )
  totals: dict[tuple[Any, ...], list[int]] = {}
  for x in list_collectives(compiled.as_text(), mesh):
    key = " × ".join(x.axes), x.kind, x.in_loop
    row = totals.setdefault(key, [0, 0, 0])
    row[0] += 1
    row[1] += x.times
    row[2] += x.times * x.received_bytes
  for (axes, kind, in_loop), (number, times, received) in totals.items():
    yield {
      "mesh": name,
      "axes": axes,
      "kind": kind,
      "in_loop": in_loop,
      "operations": number,
      "times": times,
      "received_MiB": received / 2**20,
      "tokens": length,
      "width": width,
    }


def list_ring_cases(quick: bool) -> Iterator[tuple[Any, ...]]:
  """Lists (way, tokens)."""
  for length in (4096,) if quick else (16_384, 131_072):
    for way in ("ring", "all-gather"):
      yield way, length


def measure_ring(way: str, length: int) -> Iterator[dict[str, Any]]:
  """Compiles the gradient of causal attention on 8 devices."""
  mesh = create_mesh("sequence=8", jax.devices())
  spec = PartitionSpec(None, "sequence")

  def gather(q, k, v):
    k, v = (
      jax.lax.all_gather(x, "sequence", axis=1, tiled=True) for x in (k, v)
    )
    first = q.shape[1] * jax.lax.axis_index("sequence")
    return chunked_softmax_attention(
      q, k, v, is_causal=True, query_offset=first
    )

  attend = {
    "ring": partial(ring_attention, axis_name="sequence"),
    "all-gather": gather,
  }[way]

  def loss(args):
    sharded = jax.shard_map(
      attend, mesh=mesh, in_specs=(spec,) * 3, out_specs=spec
    )
    return sharded(*args).sum()

  sharding = NamedSharding(mesh, spec)
  x = jax.ShapeDtypeStruct((1, length, 4, 64), jnp.float32, sharding=sharding)
  compiled = jax.jit(jax.grad(loss)).lower((x, x, x)).compile()
  memory: Any = compiled.memory_analysis()
  yield {
    "way": way,
    "tokens": length,
    "temporary_MiB": memory.temp_size_in_bytes / 2**20,
  }


def list_precision_cases(quick: bool) -> Iterator[tuple[Any, ...]]:
  """Lists (mesh, attention, dtype)."""
  for dtype in ("float64", "float32"):
    for mesh in _MESHES[-1:] if quick else _MESHES:
      yield mesh, "linear", dtype
    yield "data=2,sequence=4", "softmax", dtype


def measure_precision(
  name: str, attention: str, dtype: str
) -> Iterator[dict[str, Any]]:
  """Compares a gradient with that of one device."""
  method = "slim, rewind" if attention == "linear" else "full"
  length, chunk_size = 101, 4
  random = np.random.default_rng(0)
  tokens = random.integers(0, 256, (8, length + 1)).astype(np.int32)
  weights = random.integers(0, 2, (8, length)).astype(np.float32)
  batch = Batch(tokens[:, :-1], tokens[:, 1:], weights)
  with jax.enable_x64(dtype == "float64"):
    compiled, shapes, mesh = compile_gradient(
      name,
      method,
      length,
      64,
      chunk_size,
      batch_size=8,
      attention=attention,
      dtype=dtype,
    )
    model = make_narrow_model(64, attention=attention, dtype=dtype)
    params = jax.jit(model.init)(jax.random.key(0))
    right_sums, right = jax.jit(make_value_and_grad(model, method="full"))(
      params, batch
    )
    layout = make_layout(model, mesh, length, method, chunk_size)
    shardings = jax.tree.map(lambda x: x.sharding, shapes)
    sums, found = compiled(
      jax.device_put(params, shardings),
      layout.put(batch, 8, slice(0, 8)),
      np.int32(0),
    )
    yield {
      "mesh": name,
      "attention": attention,
      "dtype": dtype,
      "loss_error": abs(float(sums.nll / right_sums.nll) - 1),
      "gradient_error": largest_error(found, right),
    }


def _start_devices() -> None:
  """Lets the CPU stand for eight devices."""
  jax.config.update("jax_platforms", "cpu")
  jax.config.update("jax_num_cpu_devices", 8)


if __name__ == "__main__":
  command_line.run(main, choose_device=_start_devices)
