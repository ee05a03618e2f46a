"""What a function closes over, made an argument; and device-varying types.

A custom derivative rule may not close over arrays that are being
differentiated. `hoist` turns a function that does into one that takes them as
arguments. `jax.closure_convert` is the public tool for this, but fails on PRNG
keys under grad(jit) and leaves out arrays that are not yet traced.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend import core

from slim.kernels.support.explicit_meshes import (
  is_sharded,
  shard_alike,
)


class Hoisted:
  """A traced function of its former closure and its arguments.

  Attributes:
    out: Pytree of `jax.ShapeDtypeStruct`, what it returns.
  """

  def __init__(self, closed_jaxpr: Any, out: Any):
    """Wraps a jaxpr whose constants are given at each call."""
    self._jaxpr = closed_jaxpr.jaxpr
    self.out = out

  def __call__(self, consts: list[jax.Array], *args: Any) -> Any:
    """Calls the function with `consts` in the place of what it closed over."""
    run = core.jaxpr_as_fun(core.ClosedJaxpr(self._jaxpr, consts))
    leaves = run(*jax.tree.leaves(args))
    return jax.tree.unflatten(jax.tree.structure(self.out), leaves)


def hoist(
  fn: Callable[..., Any], *args: Any
) -> tuple[Hoisted, list[jax.Array]]:
  """Traces `fn` and takes out the arrays it closes over.

  Args:
    fn: Any traceable function.
    *args: Pytrees of arrays, of the shapes that it will be called with.

  Returns:
    hoisted: `hoisted(consts, *args)` computes `fn(*args)`.
    consts: The arrays, tracers and PRNG keys that `fn` closes over.
  """
  closed_jaxpr, out = jax.make_jaxpr(fn, return_shape=True)(*args)
  return Hoisted(closed_jaxpr, out), list(closed_jaxpr.consts)


def vary_alike(tree: Any) -> Any:
  """Casts all leaves to vary over the mesh axes that any of them varies over.

  Numbers and NumPy arrays become JAX arrays; a Python number keeps its weak
  type.

  Inside `shard_map` a replicated array that meets a sharded one is cast to
  vary, and the derivative of that cast is a sum over the devices. Cast here,
  outside the loop, the sum is formed once; else it is formed in each turn.
  Elsewhere nothing varies and nothing happens.
  """
  tree = jax.tree.map(jnp.asarray, tree)
  axes = frozenset().union(*(_varying(x) for x in jax.tree.leaves(tree)))
  return jax.tree.map(lambda x: _vary(x, axes), tree)


def zeros_like(
  x: jax.Array, dtype: Any = None, *, like: jax.Array | None = None
) -> jax.Array:
  """Zeros like `x`, sharded as `x`, which vary as `like` does; None: as `x`."""
  varying = _varying(x if like is None else like)
  return _vary(jnp.zeros_like(x, dtype), varying)


def filled(shape: Any, value: Any, dtype: Any, *, like: jax.Array) -> jax.Array:
  """An array of one value for a loop over `like` to start from.

  Args:
    shape: Its shape; all but the last axis of `like` come first.
    value: Its elements.
    dtype: Its dtype.
    like: It varies over the mesh axes that this varies over, and those first
      axes are sharded as those of this.

  Returns:
    The array.
  """
  x = jnp.full(shape, value, dtype)
  if is_sharded(like):
    x = shard_alike(x, like[..., 0])
  return _vary(x, _varying(like))


def _varying(x):
  return jax.typeof(x).manual_axis_type.varying


def _vary(x, axes):
  missing = tuple(axes - _varying(x))
  return jax.lax.pcast(x, missing, to="varying") if missing else x
