"""Every kernel takes sharded arrays, in explicit and in automatic meshes."""

import functools

import jax
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from tests.kernels.jax_modes.case import B, H, K
from tests.kernels.jax_modes.cases import (
  CASES,
  assert_close,
  run_on_one_device,
  value_and_gradients,
)


def _shard(x, mesh):
  """Shards the sequences and heads of an array, if it has such axes."""
  spec = [None] * x.ndim
  if x.ndim > 2 and x.shape[0] == B or x.shape == (B, K):
    spec[0] = "data"
  if x.ndim == 4 and x.shape[2] == H:
    spec[2] = "model"
  return jax.device_put(x, NamedSharding(mesh, PartitionSpec(*spec)))


def _make_mesh(*axis_types):
  return jax.make_mesh(
    (2, 2), ("data", "model"), axis_types, devices=jax.devices()[:4]
  )


# These share most of their program with other cases.
_ALIKE = ("scan_sqrt", "sum_and_grad_sqrt", "remat_softmax_attention")


@pytest.mark.parametrize(
  "name",
  [
    pytest.param(name, marks=pytest.mark.slow if name in _ALIKE else ())
    for name in CASES
  ],
)
def test_explicit_sharding(name):
  """Fails if a kernel refuses sharded arrays, mixes them up or gathers them."""
  args, right = run_on_one_device(name)
  mesh = _make_mesh(AxisType.Explicit, AxisType.Explicit)
  args = [_shard(x, mesh) for x in args]
  fn = functools.partial(value_and_gradients, CASES[name].fn)
  gradients, value = found = jax.jit(fn)(*args)
  assert_close(found, right)
  # On the devices of the arguments.
  for x, ct in zip(args, gradients, strict=True):
    assert ct.sharding.spec == x.sharding.spec
  for x in jax.tree.leaves(value):
    if x.ndim > 2:
      assert x.sharding.spec[0] == "data"


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize(
  ("types", "is_compiled"),
  [
    ((AxisType.Explicit, AxisType.Explicit), True),
    pytest.param(
      *((AxisType.Explicit, AxisType.Explicit), False), marks=pytest.mark.full
    ),
    ((AxisType.Explicit, AxisType.Auto), True),
    ((AxisType.Auto, AxisType.Explicit), True),
  ],
)
def test_context_mesh(name, types, is_compiled):
  """Fails if a kernel breaks under `jax.set_mesh`, or in a mixed mesh."""
  args, right = run_on_one_device(name)
  mesh = _make_mesh(*types)
  fn = functools.partial(value_and_gradients, CASES[name].fn)
  with jax.set_mesh(mesh):
    args = [_shard(x, mesh) for x in args]
    assert_close((jax.jit(fn) if is_compiled else fn)(*args), right)
