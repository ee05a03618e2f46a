"""Custom derivatives in reverse mode, of first order only.

A kernel with such a derivative has a forward pass that stores little and a
backward pass that recomputes the rest. This module holds what they share: the
rule itself, cotangents for inexact leaves only, sums of gradients in float32 or
wider, and an error for second derivatives.

To use it, first turn the arrays that a function closes over into arguments,
with `closure_to_arguments`, then pass the converted functions in `static`:

  fn, consts = closure_to_arguments(step, params, x)
  y = run(fn, consts, params, x)  # run = first_order_vjp(forward, backward, …)
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax

from slim.kernels.support.cotangents import (
  cotangent,
  first_order_only,
)
from slim.kernels.support.dtypes import at_least_float32
from slim.kernels.support.mesh_axes import zeros_like

Forward = Callable[..., tuple[Any, Any]]
Backward = Callable[[Any, Any, Any], tuple[Any, ...]]


def first_order_vjp(
  forward: Forward, backward: Backward, refusal: Callable[[Any], str]
) -> Callable[..., Any]:
  """Makes a function from a forward and a backward pass.

  Args:
    forward: `forward(static, *args) -> (outputs, residuals)`. `static` is
      hashable, everything else a pytree of arrays. It must not close over
      arrays.
    backward: `backward(static, residuals, outputs_ct) -> args_ct`, with one
      entry per argument: a pytree of the cotangents of its inexact leaves, in
      their order and of any float dtype, or None for a gradient of zero.
    refusal: `refusal(static)`, the message for a second derivative.

  Returns:
    `fn(static, *args) -> outputs`. A second derivative raises ValueError, and
    forward mode TypeError.
  """

  def primal(static, *args):
    outputs, _ = forward(static, *args)
    return outputs

  def run_forward(static, *args):
    # Calling `fn` here would make forward over reverse mode fail with a message
    # of JAX, before `first_order_only` is reached.
    outputs, residuals = forward(static, *args)
    return outputs, (residuals, _Types.of(args))

  def run_backward(static, residuals, outputs_ct):
    residuals, types = residuals
    residuals = first_order_only(residuals, refusal(static))
    args_ct = backward(static, residuals, outputs_ct)
    return tuple(
      None if ct is None else cotangent(arg, jax.tree.leaves(ct))
      for arg, ct in zip(types.tree(), args_ct, strict=True)
    )

  fn = jax.custom_vjp(primal, nondiff_argnums=(0,))
  fn.defvjp(run_forward, run_backward)
  return fn


def zeros_for_sum(tree: Any, like: jax.Array | None = None) -> Any:
  """Makes the zeros that a sum of gradients starts from.

  A sum over many chunks in bfloat16 would lose its small summands. It is
  rounded once, when the sum becomes the cotangent of its argument.

  Args:
    tree: Pytree of inexact arrays.
    like: In `shard_map` the zeros vary over the mesh axes of this array.
      Default: each varies like its leaf.

  Returns:
    Pytree like `tree`, float32 or wider.
  """
  return jax.tree.map(
    lambda x: zeros_like(x, at_least_float32(x.dtype), like=like), tree
  )


def add_to_sum(total: Any, x: Any) -> Any:
  """Adds a pytree of gradients to a sum of them, in the dtype of the sum."""
  return jax.tree.map(lambda total, x: total + x.astype(total.dtype), total, x)


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class _Types:
  """Shapes and dtypes of the arguments, stored with the residuals."""

  structure: jax.tree_util.PyTreeDef
  leaves: tuple[jax.ShapeDtypeStruct, ...]

  @classmethod
  def of(cls, args):
    leaves, structure = jax.tree.flatten(args)
    types = map(jax.typeof, leaves)  # Numbers have one, too.
    return cls(
      structure, tuple(jax.ShapeDtypeStruct(x.shape, x.dtype) for x in types)
    )

  def tree(self):
    return jax.tree.unflatten(self.structure, self.leaves)
