"""The arrays of a checkpoint on disk: their names and shapes."""

import jax
import tensorstore

from slim.types import TrainState


def read_shapes(folder: str) -> dict[str, tuple[int, ...]]:
  """Reads the shapes of the arrays in a folder, by their names.

  Args:
    folder: The folder of a saved state.

  Returns:
    The shapes by the names of the arrays.
  """
  base = {"driver": "file", "path": f"{folder}/"}
  store = {"driver": "ocdbt", "base": base}
  keys = tensorstore.KvStore.open(store).result().list().result()
  paths = [key.decode().removesuffix(".zarray") for key in keys]
  paths = [path for path in paths if path.endswith("/")]
  shapes = {}
  for path in paths:
    spec = {"driver": "zarr", "kvstore": store | {"path": path}}
    shapes[path.removesuffix("/")] = tensorstore.open(spec).result().shape
  return shapes


def count_stored_stacks(shapes: dict[str, tuple[int, ...]]) -> int:
  """Counts the stacks of equal layers among stored parameters; 0 for none."""
  parts = [name.split(".") for name in shapes]
  return len({x[1] for x in parts if x[0] == "params" and "layers_" in x[1]})


def name_shapes(state: TrainState) -> dict[str, tuple[int, ...]]:
  """Returns the shapes of a state by the names that Orbax gives the arrays.

  Args:
    state: A state, or its shapes.

  Returns:
    The shapes by name, as from `read_shapes`.
  """
  return {
    jax.tree_util.keystr(path, simple=True, separator="."): x.shape
    for path, x in jax.tree_util.tree_leaves_with_path(state)
  }
