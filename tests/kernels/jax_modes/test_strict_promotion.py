"""Every kernel has a case, and promotes dtypes and ranks explicitly."""

import functools

import jax
import pytest

from slim import kernels
from tests.kernels.jax_modes.cases import (
  CASES,
  call_eagerly,
  make_args,
  value_and_gradients,
)
from tests.kernels.jax_modes.test_communication import KERNELS


def test_every_kernel_has_a_case():
  """Fails if a new kernel is missing in these tests."""
  used = {name for case in CASES.values() for name in case.uses}
  used |= {*KERNELS, "exchange_sums"}  # Used by the first of them.
  assert used | {"chunk_order", "zigzag_order"} == set(kernels.__all__)


def _slow(*values):
  return pytest.param(values, marks=pytest.mark.slow)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize(
  "dtypes", [("bfloat16",), _slow("float16"), _slow("float32")]
)
@pytest.mark.parametrize(
  # Eager calls take minutes, and trace the same operations.
  "run",
  [jax.eval_shape, pytest.param(call_eagerly, marks=pytest.mark.full)],
)
def test_strict_promotion(name, dtypes, run):
  """Fails if a kernel mixes dtypes or ranks implicitly."""
  case = CASES[name]
  with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
    run(
      functools.partial(value_and_gradients, case.fn),
      *make_args(case.shapes, *dtypes),
    )


@pytest.mark.slow
@pytest.mark.parametrize(
  "dtypes",
  [
    ("float64",),
    ("float64", "bfloat16", "float32"),
    ("bfloat16", "float32", "float64"),
    ("float32", "float64", "float16"),
  ],
)
@pytest.mark.parametrize("name", [x for x in CASES if "attention" in x])
def test_strict_promotion_of_mixed_dtypes(x64, name, dtypes):
  """Fails if a kernel refuses arguments of different dtypes."""
  test_strict_promotion(name, dtypes, jax.eval_shape)
