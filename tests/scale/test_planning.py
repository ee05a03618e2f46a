"""The tools take a mesh: they count what one of its devices has."""

import functools
import re

import pytest

from slim.memory import __main__ as memory
from slim.plan.from_config import list_estimates
from slim.training import build, devices, shapes
from tests.commands import run_command
from tests.helpers import SMALL, make_config
from tests.scale.processes import write_config

LENGTH = 128


def test_memory_says_what_is_sent(tmp_path):
  """Fails if the report forgets what devices send to each other."""
  done = run_command(
    memory.main,
    f"--config={write_config(tmp_path)}",
    "--config.mesh=fsdp=2,sequence=2",
    "--config.train.batch_size=2",
  )
  assert (done.code, done.errors) == (0, "")
  assert re.search(r"\n  sequence +all-gather +\d+", done.output)


def test_parameters_are_counted_once():
  """Fails if moments that are sharded are counted as whole."""
  sharded, whole = (
    build.create_experiment(config, devices.create_mesh(config))
    for config in (
      make_config(**SMALL, mesh=mesh) for mesh in ("fsdp=4", "data=1")
    )
  )
  one, all_of_it = (
    shapes.tree_bytes(shapes.abstract_state(x).opt_state)
    for x in (sharded, whole)
  )
  assert all_of_it / 4 < one < all_of_it / 2


@functools.cache
def estimates_on(mesh):
  """The candidates on a mesh, by their gradient."""
  config = make_config(**SMALL | {"data__sequence_length": LENGTH}, mesh=mesh)
  return {x.gradient: x for x in list_estimates(config)}


@pytest.mark.parametrize("mesh", ["data=4", "sequence=4"])
def test_a_plan_is_for_one_device(mesh):
  """Fails if chunks are larger than what a device has, or estimates of all."""
  whole, shared = estimates_on("data=1"), estimates_on(mesh)
  largest = LENGTH // 4 if mesh == "sequence=4" else LENGTH
  sizes = [x.chunk_size for x in shared if x.chunk_size]
  assert max(sizes) == largest // 2
  for choice, found in shared.items():
    assert found.estimated_bytes < whole[choice].estimated_bytes
