"""Distance of slim's gradient from the dense one, and of both from float64.

For the configurations of the SLiM paper, with initial weights and with weights
trained on the text (500 steps of the paper's Adam on consecutive slices of
1,024 tokens; runs stay in --workdir and are resumed).
`slim.certify.gradient_error` defines the error. With --dtype=bfloat16 the
computation is in bfloat16; parameters, states and gradients are in float32.

  python experiments/gradient_error.py --text=FILE [--dtype=bfloat16]
  python experiments/gradient_error.py --quick
"""

import functools
import pathlib
from typing import Any

import jax
import numpy as np
import training_runs
from absl import flags
from arguments import (
  chosen_configurations,
  define_count,
  define_names,
  define_quick,
  define_text,
  define_workdir,
  open_workdir,
  text_path,
)
from configurations import (
  CONFIGURATIONS,
  find_configuration,
  make_batch,
  make_model,
)
from record import COMMIT, join_commits, print_table, save

from slim import command_line
from slim.certify.gradient_error import largest_error
from slim.config import base
from slim.kernels import POLICIES
from slim.training.gradients import COMPILER_OPTIONS, make_value_and_grad
from slim.types import Batch

_TEXT = define_text("File to train and measure on.")
_WORKDIR = define_workdir("runs/gradient_error")
_STEPS = define_count("steps", 500, "Training steps.")
_NAMES = define_names(
  "configurations", list(CONFIGURATIONS), CONFIGURATIONS, "What to measure."
)
_DTYPE = flags.DEFINE_enum(
  "dtype", "float32", ["float32", "bfloat16"], "Dtype of the computation."
)
_QUICK = define_quick("A small model, 20 steps, one C: half a minute.")
_TRAIN_ONLY = flags.DEFINE_bool("train_only", False, "Only train the weights.")


def main() -> None:
  """Measures, prints and saves."""
  quick, dtype = _QUICK.value, _DTYPE.value
  steps = 20 if quick else _STEPS.value
  text = text_path(_TEXT, _QUICK)
  with open_workdir(_WORKDIR, _QUICK) as workdir:
    for name in chosen_configurations(_NAMES, _QUICK):
      trained, of_run = train(name, text, steps, workdir)
      if _TRAIN_ONLY.value:
        continue
      initial = make_model(name, quick).init(jax.random.key(0))
      batch = make_batch(CONFIGURATIONS[name].sequence_length, text)
      rows = [
        {"configuration": name, "weights": weights, "dtype": dtype}
        | {"commit": join_commits(commits), **row}
        for weights, params, commits in (
          ("initial", initial, [COMMIT]),
          (f"{steps} steps", trained, [*of_run, COMMIT]),
        )
        for row in measure(name, params, batch, dtype)
      ]
      print_table(rows)
      suffix = "" if dtype == "float32" else f"_{dtype}"
      save(f"gradient_error_{name}{suffix}", rows, quick=quick)


def train(
  name: str, text: str, steps: int, workdir: pathlib.Path
) -> tuple[Any, list[str | None]]:
  """Trains on the text; returns the weights, and the commits of the code."""
  name = "III" if name == "IV" else name  # They differ only in length.
  configuration = find_configuration(name, _QUICK.value)
  config = base()
  config.model.width = configuration.width
  config.model.num_layers = configuration.num_layers
  config.model.num_heads = configuration.width // 64
  config.data.name = "text"
  config.data.path = text
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
  folder = workdir / f"{name}-{steps}"
  params, _ = training_runs.train(config, folder)
  return params, training_runs.commits_of_run(folder)


def measure(
  name: str, params: Any, batch: Batch, dtype: str
) -> list[dict[str, Any]]:
  """Compares the gradients of one sequence for one set of weights."""
  exact = gradient(name, "float64", params, batch, method="full")
  full = gradient(name, dtype, params, batch, method="full")
  full_error = largest_error(full, exact)
  chunk_sizes = (64,) if _QUICK.value else (64, 256, 1024)
  rows = []
  for chunk_size in (512,) if name == "IV" else chunk_sizes:
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
    _, gradients = make_program(name, dtype, **method)(params, batch)
    return [np.asarray(x, np.float64) for x in jax.tree.leaves(gradients)]


@functools.cache
def make_program(name, dtype, **method):
  """Returns a gradient that is compiled once, for all weights."""
  model = make_model(name, _QUICK.value, dtype)
  value_and_grad = make_value_and_grad(model, **method)
  return jax.jit(value_and_grad, compiler_options=COMPILER_OPTIONS)


if __name__ == "__main__":
  command_line.run(main)
