"""Every public name of `slim.kernels` is called by a case.

`CASES` calls each with everything that a mode of JAX may affect: masks,
dropout, functions of the user, and arrays closed over.
"""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np

# These add to `CASES`.
from tests.kernels.jax_modes import attention_cases, scan_cases  # noqa: F401
from tests.kernels.jax_modes.case import CASES


def make_args(shapes, *dtypes):
  """Makes normal arrays; the dtypes are used in turn."""
  random = np.random.default_rng(0)
  return [
    jnp.asarray(random.normal(size=shape) * 0.5, dtype)
    for shape, dtype in zip(shapes, itertools.cycle(dtypes), strict=False)
  ]


def value_and_gradients(fn, *args):
  """The value of `fn`, and the gradients of a sum of its inexact leaves."""

  def loss(args):
    value = fn(*args)
    total = jnp.float32(0)
    for x in jax.tree.leaves(value):
      if jnp.issubdtype(x.dtype, jnp.floating):
        total += jnp.sin(x).astype(jnp.float32).sum()
    return total, value

  return jax.grad(loss, has_aux=True)(args)


@functools.cache
def jitted(name):
  """The value and gradients of a case, traced once for equal arguments."""
  return jax.jit(functools.partial(value_and_gradients, CASES[name].fn))


@functools.cache
def run_on_one_device(name):
  """What a case computes by itself on one device."""
  args = make_args(CASES[name].shapes, "float32")
  return args, jitted(name)(*args)


def call_eagerly(fn, *args):
  """Runs a function eagerly."""
  return fn(*args)


def assert_close(found, right):
  """Compares two pytrees, leaf by leaf."""
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5),
    found,
    right,
  )
