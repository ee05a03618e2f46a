"""Promote dtypes by the standard table, also in strict promotion mode.

`jnp.promote_types` follows the setting `jax_numpy_dtype_promotion`. Under
"strict" it refuses bfloat16 beside float32. The kernels choose the dtype of
their sums deliberately, so they always use the standard table.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike


def promote(*dtypes: DTypeLike) -> jnp.dtype:
  """Returns the dtype that all of `dtypes` promote to.

  Args:
    *dtypes: One or more dtypes.

  Returns:
    A dtype of JAX: float64 becomes float32 unless 64-bit types are enabled.
  """
  with jax.numpy_dtype_promotion("standard"):
    dtype = functools.reduce(jnp.promote_types, dtypes)
  return jax.dtypes.canonicalize_dtype(dtype)


def at_least_float32(*dtypes: DTypeLike) -> jnp.dtype:
  """Returns the dtype that all of `dtypes` and float32 promote to.

  Args:
    *dtypes: Any number of dtypes.

  Returns:
    float32 or wider.
  """
  return promote(jnp.float32, *dtypes)


def smallest_unsigned(largest: int) -> jnp.dtype:
  """Returns the smallest unsigned integer dtype that holds 0 … `largest`."""
  return np.min_scalar_type(largest)
