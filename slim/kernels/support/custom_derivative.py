"""Functions whose gradient walks backward in its own way, once.

Each such kernel has a forward pass that keeps little and a backward pass that
recomputes the rest. What they share is here: the rule itself, cotangents for
the inexact leaves only, gradients summed in float32 or wider, and a clear error
instead of a wrong or failing second derivative. Arrays that a function closes
over become arguments first: see `slim.kernels.support.closures`.
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
  """Makes a function with a custom derivative in reverse mode, the first only.

  Args:
    forward: `forward(static, *args) -> (outputs, residuals)`. `static` is
      hashable, all else are pytrees of arrays. It may not close over arrays.
    backward: `backward(static, residuals, outputs_ct) -> args_ct`, with one
      entry for each argument: the cotangents of its inexact leaves, in their
      order and of any float dtype; or None, for an argument without gradient.
    refusal: Makes the message for a second derivative, from `static`.

  Returns:
    `fn(static, *args) -> outputs`. Differentiating it twice raises ValueError,
    differentiating it in forward mode TypeError.
  """

  def primal(static, *args):
    outputs, _ = forward(static, *args)
    return outputs

  def run_forward(static, *args):
    # Not `primal`: forward over reverse mode would be refused by JAX, in words
    # of its own, before `first_order_only` is reached.
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
    like: The zeros vary over the mesh axes of this array. Default: each over
      those of its own leaf.

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
