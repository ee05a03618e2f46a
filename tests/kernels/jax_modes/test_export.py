"""Every kernel is lowered for all platforms, on a machine that has one."""

import pytest
from jax import export

from tests.kernels.jax_modes.cases import CASES, jitted, make_args

PLATFORMS = ("cpu", "cuda", "tpu")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", CASES)
def test_every_platform_is_lowered_for(name, dtype):
  """Fails if a kernel cannot be lowered for one, or not be stored."""
  exported = export.export(jitted(name), platforms=PLATFORMS)(
    *make_args(CASES[name].shapes, dtype)
  )
  assert exported.platforms == PLATFORMS
  assert export.deserialize(exported.serialize()).out_tree == exported.out_tree
