"""What compiled programs send, and how much memory they take."""

import collections
import math

import jax
import pytest

from slim.scale import create_mesh
from slim.scale.collectives import list_collectives
from tests.helpers import AS_USERS
from tests.models.small import SIZES
from tests.scale.cases import Sharded


def count(found, in_loop):
  """Counts collectives by their kind."""
  return collections.Counter(x.kind for x in found if x.in_loop == in_loop)


def test_a_chunk_exchanges_states_alone():
  """Fails if a loop over chunks sends parameters, or sends a state twice."""
  num_layers = 2
  sharded = Sharded(
    "data=2,sequence=2", 2, 32, 4, dtype="float32", num_layers=num_layers
  )
  found = list_collectives(sharded.compiled.as_text(), sharded.layout.mesh)
  # Forward, back, and the derivative of the latter.
  assert count(found, in_loop=True) == {
    "all-gather": 2 * num_layers,
    "reduce-scatter": num_layers,
  }
  head = SIZES["width"] // SIZES["num_heads"]
  state = SIZES["num_heads"] * head * (head + 1)
  for x in found:
    if x.in_loop:
      assert x.axes == ("sequence",)
      assert x.times == 4  # Chunks of 2 · 4 tokens.
      assert x.result_bytes <= 4 * 2 * state
  leaves = jax.tree.leaves(sharded.params)
  num_sharded = sum(not x.sharding.is_fully_replicated for x in leaves)
  assert num_sharded == sum(x.ndim == 2 for x in leaves)
  outside = count(found, in_loop=False)
  assert outside["all-gather"] == outside["reduce-scatter"] == num_sharded
  assert outside["all-to-all"] == outside["collective-permute"] == 0


def test_batches_alone_exchange_nothing_in_a_loop():
  """Fails if gradients are summed over devices once a chunk."""
  sharded = Sharded("data=4", 4, 32, 4, dtype="float32")
  found = list_collectives(sharded.compiled.as_text(), sharded.layout.mesh)
  assert not count(found, in_loop=True)
  assert {(x.kind, x.axes) for x in found} == {("all-reduce", ("data",))}


@pytest.mark.parametrize(
  ("line", "kind", "received"),
  [
    (
      "(f32[1000]{0}, f32[500]{0}) all-reduce-start(%a, %b), "
      "replica_groups={{0,1}}",
      "all-reduce",
      6000,
    ),
    (
      "((f32[500]{0}, f32[400]{0}), (f32[1000]{0}, f32[800]{0})) "
      "all-gather-start(%a, %b), replica_groups=[1,2]<=[2]",
      "all-gather",
      3600,
    ),
    (
      "(bf16[8,2]{1,0:T(8,128)}, bf16[8,2]{1,0}, u32[], u32[]) "
      "collective-permute-start(%a), source_target_pairs={{0,1},{1,0}}",
      "collective-permute",
      32,
    ),
    (
      "f32[125]{0} reduce-scatter(%a), replica_groups=[1,2]<=[2]",
      "reduce-scatter",
      500,
    ),
    (
      "f32[8]{0} all-gather(%a), replica_groups=mesh['sequence'=2] "
      "{'sequence'}",
      "all-gather",
      16,
    ),
  ],
)
def test_lines_of_other_compilers(line, kind, received):
  """Fails if operands of a collective that is started count as received."""
  program = f"ENTRY %main (a: f32[1]) -> f32[1] {{\n  %x = {line}\n}}\n"
  mesh = create_mesh("sequence=2", jax.devices())
  [found] = list_collectives(program, mesh)
  assert (found.kind, found.axes) == (kind, ("sequence",))
  assert found.received_bytes == received


@pytest.mark.slow
def test_memory_does_not_grow_with_the_sequence():
  """Fails if devices keep activations of more than a chunk."""

  def temporary_bytes(mesh, length):
    sharded = Sharded(
      mesh,
      1,
      length,
      128,
      compiler_options=AS_USERS,
      dtype="float32",
      width=64,
      mlp_width=256,
    )
    memory = sharded.compiled.memory_analysis()
    whole = 4 * sum(math.prod(x.shape) for x in jax.tree.leaves(sharded.params))
    return memory.temp_size_in_bytes, whole

  short, _ = temporary_bytes("sequence=4", 4096)
  long, whole = temporary_bytes("sequence=4", 65_536)
  assert long <= 1.01 * short
  # A device holds the parameters and their gradient whole.
  one, _ = temporary_bytes("sequence=2", 65_536)
  assert long <= 1.05 * (one + 2 * whole)
