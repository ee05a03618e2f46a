"""Distance of slim's gradient from the dense one, and of both from float64.

For the configurations of the SLiM paper, with initial weights and with weights
trained on the text (500 steps of the paper's Adam on consecutive slices of
1,024 tokens; runs stay in --workdir and are resumed).
`slim.certify.gradient_error` defines the error. With --dtype=bfloat16 the
computation is in bfloat16; parameters, states and gradients are in float32.

  python experiments/gradient_error.py --text=FILE [--dtype=bfloat16]
"""

import pathlib
from typing import Any

import jax
import numpy as np
import runs
from absl import flags
from arguments import (
  define_count,
  define_names,
  define_quick,
  define_text,
  define_workdir,
)
from configurations import CONFIGURATIONS, make_batch, make_model
from record import print_table, save

from slim import command_line
from slim.certify.gradient_error import largest_error
from slim.config import base
from slim.kernels import POLICIES
from slim.training.gradients import COMPILER_OPTIONS, make_value_and_grad

_TEXT = define_text("File to train and measure on.", required=True)
_WORKDIR = define_workdir("runs/gradient_error")
_STEPS = define_count("steps", 500, "Training steps.")
_NAMES = define_names(
  "configurations", list(CONFIGURATIONS), CONFIGURATIONS, "What to measure."
)
_DTYPE = flags.DEFINE_enum(
  "dtype", "float32", ["float32", "bfloat16"], "Dtype of the computation."
)
_QUICK = define_quick("Configuration II only, 20 steps: a minute.")
_TRAIN_ONLY = flags.DEFINE_bool("train_only", False, "Only train the weights.")
_CHUNK_SIZES = {"IV": (512,)}  # The others have (64, 256, 1024).


def main() -> None:
  """Measures, prints and saves."""
  names, steps = _NAMES.value, _STEPS.value
  if _QUICK.value:
    names, steps = ["II"], 20
  for name in names:
    rows = []
    trained = train(name, steps)
    if _TRAIN_ONLY.value:
      continue
    initial = make_model(name).init(jax.random.key(0))
    dtype = _DTYPE.value
    for weights, params in (("initial", initial), (f"{steps} steps", trained)):
      for row in measure(name, params, dtype):
        rows.append(
          {"configuration": name, "weights": weights, "dtype": dtype, **row}
        )
    print_table(rows)
    suffix = "" if dtype == "float32" else f"_{dtype}"
    save(f"gradient_error_{name}{suffix}", rows, quick=_QUICK.value)


def train(name: str, steps: int) -> Any:
  """Returns the weights of a configuration after training on the text."""
  name = "III" if name == "IV" else name  # They differ only in length.
  configuration = CONFIGURATIONS[name]
  config = base()
  config.model.width = configuration.width
  config.model.num_layers = configuration.num_layers
  config.model.num_heads = configuration.width // 64
  config.data.name = "text"
  config.data.path = _TEXT.value
  config.data.order = "consecutive"
  config.data.sequence_length = 1024
  config.gradient.chunk_size = 512
  config.optimizer.learning_rate = 1e-4 if name == "II" else 2e-4
  config.train.batch_size = 1
  config.train.num_steps = steps
  config.train.eval_every = steps
  config.train.eval_batches = 4
  config.train.log_every = 10
  config.train.checkpoint_every = 100
  config.train.keep_checkpoints = 1
  folder = pathlib.Path(_WORKDIR.value) / f"{name}-{steps}"
  params, _ = runs.train(config, folder)
  return params


def measure(name: str, params: Any, dtype: str) -> list[dict[str, Any]]:
  """Compares the gradients of one sequence for one set of weights."""
  batch = make_batch(CONFIGURATIONS[name].sequence_length, _TEXT.value)
  exact = gradient(name, "float64", params, batch, method="full")
  full = gradient(name, dtype, params, batch, method="full")
  full_error = largest_error(full, exact)
  rows = []
  for chunk_size in _CHUNK_SIZES.get(name, (64, 256, 1024)):
    for policy in POLICIES:
      slim = gradient(
        name,
        dtype,
        params,
        batch,
        method="slim",
        chunk_size=chunk_size,
        policy=policy,
      )
      error = largest_error(slim, exact)
      rows.append(
        {
          "policy": policy,
          "chunk_size": chunk_size,
          "slim_to_full": largest_error(slim, full),
          "slim_to_float64": error,
          "full_to_float64": full_error,
          "ratio": error / full_error,
        }
      )
  return rows


def gradient(name, dtype, params, batch, **method):
  """Returns the gradient as float64 arrays of NumPy."""
  with (
    jax.enable_x64(dtype == "float64"),
    jax.default_matmul_precision("highest"),
  ):
    wide = "float64" if dtype == "float64" else "float32"
    params = jax.tree.map(lambda x: np.asarray(x, wide), params)
    value_and_grad = make_value_and_grad(make_model(name, dtype), **method)
    compiled = jax.jit(value_and_grad, compiler_options=COMPILER_OPTIONS)
    _, gradients = compiled(params, batch)
    return [np.asarray(x, np.float64) for x in jax.tree.leaves(gradients)]


if __name__ == "__main__":
  command_line.run(main)
