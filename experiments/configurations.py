"""What experiments are of: configs/, and the paper's four configurations."""

import importlib.util
import pathlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from slim.data import create_dataset
from slim.models import create_model
from slim.types import Batch, LanguageModel


def load_config(name: str, arg: str = "") -> ml_collections.ConfigDict:
  """Loads the settings of a file of `configs/`, by its name."""
  path = pathlib.Path(__file__).parents[1] / "configs" / f"{name}.py"
  spec = importlib.util.spec_from_file_location(name, path)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module.get_config(arg)


class Configuration(NamedTuple):
  """The size of a model and the length of its sequence; the batch size is 1."""

  sequence_length: int
  num_layers: int
  width: int

  def model_settings(self) -> dict[str, Any]:
    """The arguments of `create_model`; the others are the paper's already."""
    return dict(
      vocab_size=256,
      width=self.width,
      num_layers=self.num_layers,
      num_heads=self.width // 64,
      mlp_width=4 * self.width,
    )


# Likhosherstov et al., 2021, section 4.
CONFIGURATIONS = {
  "I": Configuration(8192, 1, 1024),
  "II": Configuration(1024, 3, 512),
  "III": Configuration(4096, 3, 1024),
  "IV": Configuration(16384, 3, 1024),
}


def make_model(name: str, dtype: str = "float32") -> LanguageModel:
  """Builds the model of a configuration, by its name."""
  return create_model(**CONFIGURATIONS[name].model_settings(), dtype=dtype)


def make_batch(sequence_length: int, path: str | None = None) -> Batch:
  """Takes the first sequence of a text, or random bytes where none is given.

  Args:
    sequence_length: T.
    path: Of a file, or None.

  Returns:
    Batch of one sequence.
  """
  if path is None:
    data = np.random.default_rng(0).integers(0, 256, (1, sequence_length + 1))
    data = jnp.asarray(data, jnp.int32)
    weights = jnp.ones((1, sequence_length), jnp.float32)
    return Batch(data[:, :-1], data[:, 1:], weights)
  dataset = create_dataset(
    "text",
    split="train",
    sequence_length=sequence_length,
    batch_size=1,
    seed=0,
    vocab_size=256,
    path=path,
    order="consecutive",
  )
  return jax.tree.map(jnp.asarray, dataset.batch(0))


def abstract_batch(sequence_length: int) -> Batch:
  """The shapes of a batch of one sequence, to compile without data."""
  shape = (1, sequence_length)
  return Batch(
    jax.ShapeDtypeStruct(shape, jnp.int32),
    jax.ShapeDtypeStruct(shape, jnp.int32),
    jax.ShapeDtypeStruct(shape, jnp.float32),
  )
