"""Promote dtypes to float32 or wider, whatever promotion the user allows.

`jnp.promote_types` follows the setting `jax_numpy_dtype_promotion`: under
"strict" it refuses bfloat16 beside float32. The kernels choose the dtype of
their sums on purpose, so they promote by the standard table always.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def promote(*dtypes: Any) -> Any:
  """Return the dtype that all of `dtypes` promote to.

  Args:
    *dtypes: One or more dtypes.

  Returns:
    A dtype that JAX has arrays of: NumPy's float64 is float32 unless 64-bit
    types are enabled. It is the same under every setting of
    `jax_numpy_dtype_promotion`.
  """
  with jax.numpy_dtype_promotion("standard"):
    dtype = functools.reduce(jnp.promote_types, dtypes)
  return jax.dtypes.canonicalize_dtype(dtype)


def at_least_float32(*dtypes: Any) -> Any:
  """Return the dtype that all of `dtypes` and float32 promote to.

  Args:
    *dtypes: Dtypes; none gives float32.

  Returns:
    A dtype.
  """
  return promote(jnp.float32, *dtypes)


def smallest_unsigned(largest: int) -> Any:
  """Return the smallest unsigned integer dtype that holds 0 … `largest`."""
  return np.min_scalar_type(largest)
