"""Every kernel is lowered for all platforms, on a machine that has one."""

import pytest
from jax import export

from tests.kernels.jax_modes.cases import (
  CASES,
  PLATFORMS,
  exported,
  strictly_exported,
)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", CASES)
def test_every_platform_is_lowered_for(name, dtype):
  """Fails if a kernel cannot be lowered for one, or not be stored."""
  if dtype == "bfloat16":  # As test_strict_promotion.py needs it, too.
    case = strictly_exported(name)
  else:
    case = exported(name, dtype)
  assert case.platforms == PLATFORMS
  assert export.deserialize(case.serialize()).out_tree == case.out_tree
