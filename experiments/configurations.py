"""What experiments measure: configs/, and the SLiM paper's configurations."""

import pathlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from slim.config import config_file
from slim.data import create_dataset
from slim.models import create_model
from slim.types import Batch, LanguageModel


def load_config(name: str, quick: bool = False) -> ml_collections.ConfigDict:
  """Loads a file of `configs/` by its name, or its smoke variant."""
  path = pathlib.Path(__file__).parents[1] / "configs" / f"{name}.py"
  config = config_file.load_config(f"{path}:smoke" if quick else str(path))
  config.mesh = "data=1"  # Results are those of one device.
  return config


class Configuration(NamedTuple):
  """Sizes of a model and length of its sequences; the batch size is 1."""

  sequence_length: int
  num_layers: int
  width: int

  def model_settings(self) -> dict[str, Any]:
    """Returns arguments of `create_model`; its defaults are the paper's."""
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


def find_configuration(name: str, quick: bool = False) -> Configuration:
  """Returns a configuration by its name, or one of its length for a small run.

  Small runs keep the length, and so the chunk sizes and the rows of a table. A
  single layer of width 128 compiles and runs in seconds.
  """
  full = CONFIGURATIONS[name]
  return full._replace(num_layers=1, width=128) if quick else full


def make_model(
  name: str, quick: bool = False, dtype: str = "float32"
) -> LanguageModel:
  """Creates the model of a configuration, by its name."""
  settings = find_configuration(name, quick).model_settings()
  return create_model(**settings, dtype=dtype)


def make_batch(sequence_length: int, path: str | None = None) -> Batch:
  """Returns a batch of one sequence.

  Args:
    sequence_length: T.
    path: A text file, whose first bytes are taken, or None for random bytes.

  Returns:
    The batch.
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
  """Returns the shapes of a batch of one sequence, to compile without data."""
  shape = (1, sequence_length)
  return Batch(
    jax.ShapeDtypeStruct(shape, jnp.int32),
    jax.ShapeDtypeStruct(shape, jnp.int32),
    jax.ShapeDtypeStruct(shape, jnp.float32),
  )


def random_arrays(count: int, shape: tuple[int, ...]) -> list[jax.Array]:
  """Returns normally distributed float32 arrays of one shape."""
  random = np.random.default_rng(0)
  return [
    jnp.asarray(random.normal(size=shape), jnp.float32) for _ in range(count)
  ]
