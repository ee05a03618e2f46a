"""Weights in one safetensors file, with the settings of their run.

A tensor is named by its path, as in `layer_0.attention.q.kernel`: the layers
are not stacked in the file, whatever they are in the run. The metadata
holds the settings of the run as JSON ("config") and the updates done ("step").
"""

import json
import os
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import safetensors.numpy

from slim import config as config_lib
from slim.files import check_new_file, first_line, local_path, write_file
from slim.models import count_stacks, stacking
from slim.models.settings import BOUNDED_POSITIONS
from slim.runs.trained import load_run
from slim.types import LanguageModel, Params

# Settings of the model that do not change the meaning of a parameter.
_MAY_DIFFER = ("model.dropout", "model.dtype", "model.stack_layers")


def save_weights(
  output: str, params: Params, config: ml_collections.ConfigDict, step: int
) -> None:
  """Writes parameters to a new file, completely or not at all.

  Args:
    output: The file.
    params: The parameters as nested dictionaries.
    config: All settings of the run that trained them.
    step: Updates done.

  Raises:
    ValueError: If the file exists, or cannot be written.
  """
  output = local_path("output", output)
  check_new_file("output", output)
  # The format stores the bytes in memory order.
  tensors = {
    name: np.asarray(jax.device_get(x), order="C")
    for name, x in _flatten(stacking.unstack(params)).items()
  }
  metadata = {"config": json.dumps(config.to_dict()), "step": str(step)}
  write_file(output, safetensors.numpy.save(tensors, metadata), "output")


def load_weights(path: str) -> tuple[Params, ml_collections.ConfigDict]:
  """Reads parameters written by `save_weights`.

  Args:
    path: The file.

  Returns:
    The parameters as nested dictionaries, and all settings of their run. A
    setting that is newer than the file has its default.

  Raises:
    ValueError: If the file cannot be read, or holds no valid settings.
  """
  path = local_path("path", path)
  try:
    # A pipe would wait for somebody who writes.
    if os.path.exists(path) and not os.path.isfile(path):
      raise OSError("it is no file")
    with safetensors.safe_open(path, framework="numpy") as file:
      metadata = file.metadata()
      tensors = {name: file.get_tensor(name) for name in file.keys()}
  # A type that numpy has not is a TypeError or an AttributeError.
  except Exception as error:
    raise ValueError(
      f"{path} must be a safetensors file, but cannot be read: "
      f"{first_line(error)}"
    ) from error
  config = config_lib.base()
  try:
    config.update(json.loads(metadata["config"]))
  # Deep JSON is a RecursionError, missing metadata a TypeError, and so on.
  except Exception as error:
    raise ValueError(
      f"{path} must have the settings of a run in its metadata, but has none: "
      "write it with `python -m slim.export`"
    ) from error
  config_lib.validate(config)
  try:
    params = stacking.to_form(_nest(tensors), count_stacks(**config.model))
  except (ValueError, KeyError, TypeError) as error:
    raise ValueError(
      f"{path} must have the parameters of its settings, but their names or "
      "shapes differ: write it with `python -m slim.export`"
    ) from error
  return params, config.lock()


def load_initial_params(
  config: ml_collections.ConfigDict, model: LanguageModel
) -> Params | None:
  """Reads the initial parameters of a run.

  Args:
    config: All settings of the new run. `train.init_from` is a file, or the
      folder of another run or of one checkpoint.
    model: The model of these settings.

  Returns:
    The parameters, on the device; None without `train.init_from`.

  Raises:
    ValueError: If the file cannot be read, or its parameters have another
      meaning in the new run. It names the first that does not fit.
  """
  path = config.train.init_from
  if path is None:
    return None
  params, source_config = _read_source("config.train.init_from", path)
  _check_same_model(path, source_config, config)
  abstract_params = jax.eval_shape(model.init, jax.random.key(0))
  params = stacking.match_form(params, abstract_params)
  found, expected = _flatten(params), _flatten(abstract_params)
  for name in expected | found:
    if _describe(found.get(name)) != _describe(expected.get(name)):
      raise ValueError(
        f"config.train.init_from: {name} must be "
        f"{_describe(expected.get(name))}, is {_describe(found.get(name))} in "
        f"{path}: use the version of slim that wrote it"
      )
  return params


def _read_source(name, path):
  """Reads parameters and settings of a run, a checkpoint or a file."""
  if os.path.isdir(local_path(name, path)):
    trained = load_run(path, name=name)
    return trained.state.params, trained.config
  try:
    return load_weights(path)
  except ValueError as error:
    raise ValueError(f"{name}: {error}") from error


def _check_same_model(path, source_config, config):
  """Raises ValueError if a setting gives the parameters another meaning."""
  old, new = config_lib.flatten(source_config), config_lib.flatten(config)
  must_agree = ["data.vocab_size"]
  if config.model.feature_map == "favor":
    must_agree.append("seed")  # It determines the random features.
  if config.model.positions in BOUNDED_POSITIONS:
    must_agree.append("data.sequence_length")
  for name in config_lib.differences(
    source_config, config, ignored=_MAY_DIFFER
  ):
    if name.startswith("model.") or name in must_agree:
      raise ValueError(
        f"config.{name} must be {old[name]!r}, as in config.train.init_from="
        f"{path}, got {new[name]!r}"
      )


def _nest(tensors: dict[str, np.ndarray]) -> dict[str, Any]:
  """Undoes `_flatten`.

  Raises:
    ValueError: If a name is that of a tensor and of a module.
  """
  params: dict[str, Any] = {}
  for name, tensor in tensors.items():
    *modules, last = name.split(".")
    module = params
    for part in modules:
      module = module.setdefault(part, {})
      if not isinstance(module, dict):
        raise ValueError(f"{part} is a tensor and a module")
    if last in module:
      raise ValueError(f"{last} is a tensor and a module")
    module[last] = jnp.asarray(tensor)
  return params


def _flatten(params: Params) -> dict[str, jax.Array]:
  """Returns the parameters by their names in the file."""
  return {
    jax.tree_util.keystr(path, simple=True, separator="."): x
    for path, x in jax.tree_util.tree_leaves_with_path(params)
  }


def _describe(x: jax.Array | None) -> str:
  """Formats the shape and dtype of a parameter."""
  return "absent" if x is None else f"{x.dtype}{list(x.shape)}"
