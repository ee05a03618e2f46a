"""Parameters of layers, each by itself or those of equal layers stacked.

A model of L layers that repeat P blocks has either "layer_0" … "layer_{L-1}",
or "layers_0" … "layers_{P-1}", whose arrays have a leading axis of L / P:

  layers_j[r] = layer_i,   i = r P + j.

A stack is compiled once, whatever L is. Whatever has the structure of the
parameters, such as the moments of an optimizer, converts in the same way.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp


def join_layers(layers: Sequence[Any], num_blocks: int) -> dict[str, Any]:
  """Names layers, and stacks them if there are more than blocks.

  Args:
    layers: One pytree of arrays a layer, equal in structure and shapes for
      equal blocks.
    num_blocks: P.

  Returns:
    The entries that a dict of parameters has for the layers.
  """
  if len(layers) == num_blocks:
    return {f"layer_{i}": layer for i, layer in enumerate(layers)}
  return {
    f"layers_{j}": jax.tree.map(lambda *x: jnp.stack(x), *layers[j::num_blocks])
    for j in range(num_blocks)
  }


def split_layers(
  params: dict[str, Any], num_blocks: int, is_stacked: bool
) -> list[Any]:
  """Lists the parameters of each block.

  Args:
    params: Those of a model.
    num_blocks: P.
    is_stacked: Whether they are stacked.

  Returns:
    P pytrees of arrays.
  """
  name = "layers" if is_stacked else "layer"
  return [params[f"{name}_{j}"] for j in range(num_blocks)]


def stack(tree: Any, num_blocks: int) -> Any:
  """Stacks equal layers wherever in a tree the parameters of a model are.

  Args:
    tree: Any pytree, such as parameters or the state of an optimizer. Stacked
      layers stay as they are.
    num_blocks: P.

  Returns:
    The same with stacked layers.
  """

  def convert(params):
    names = [name for name in params if name.startswith("layer_")]
    layers = [params[f"layer_{i}"] for i in range(len(names))]
    return _replace(params, names, join_layers(layers, num_blocks))

  return _convert(tree, "layer_", convert)


def unstack(tree: Any) -> Any:
  """Undoes `stack`; a tree without stacked layers stays as it is.

  Args:
    tree: Any pytree.

  Returns:
    The same with one entry for each layer.
  """

  def convert(params):
    names = [name for name in params if name.startswith("layers_")]
    layers = {}
    for j in range(len(names)):
      stacked = params[f"layers_{j}"]
      for r in range(jax.tree.leaves(stacked)[0].shape[0]):
        layer = jax.tree.map(lambda x, r=r: x[r], stacked)
        layers[f"layer_{r * len(names) + j}"] = layer
    return _replace(params, names, layers)

  return _convert(tree, "layers_", convert)


def match_form(tree: Any, like: Any) -> Any:
  """Stacks or unstacks layers to the form that they have in another tree.

  Args:
    tree: Any pytree, with layers in either form.
    like: Parameters, or their shapes, in the form to be made.

  Returns:
    `tree` in that form.
  """
  return to_form(tree, sum(name.startswith("layers_") for name in like))


def to_form(tree: Any, num_stacks: int) -> Any:
  """Stacks or unstacks layers to a form that is given by its number of stacks.

  Args:
    tree: Any pytree, with layers in either form.
    num_stacks: P, or 0 for layers that are not stacked.

  Returns:
    `tree` in that form.
  """
  tree = unstack(tree)
  return stack(tree, num_stacks) if num_stacks else tree


# Biases, scales and filters of mixers that have an axis of heads or of tokens.
_ARRAYS_OF_VECTORS = ("step_bias", "log_scale", "conv")


def is_matrix(path: tuple[Any, ...], x: jax.Array) -> bool:
  """Tells whether a parameter multiplies vectors as a matrix.

  Args:
    path: Where the parameter is, as `jax.tree_util` has it.
    x: The parameter.

  Returns:
    Whether it is a matrix, and no bias, scale or filter of a convolution.
  """
  names = [key.key for key in path if isinstance(key, jax.tree_util.DictKey)]
  stacked = any(str(name).startswith("layers_") for name in names)
  return x.ndim > 1 + stacked and names[-1] not in _ARRAYS_OF_VECTORS


def _convert(tree, prefix, convert):
  def is_model(x):
    return isinstance(x, dict) and any(
      isinstance(name, str) and name.startswith(prefix) for name in x
    )

  return jax.tree.map(
    lambda x: convert(x) if is_model(x) else x, tree, is_leaf=is_model
  )


def _replace(params, names, layers):
  """Puts layers in the place of those with `names`."""
  rest = {name: x for name, x in params.items() if name not in names}
  return rest | layers
