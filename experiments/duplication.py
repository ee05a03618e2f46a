"""The duplication task of the Reformer paper, its Table 2, in minutes.

Trains `configs/duplication.py` with each number of rounds of hashing and with
attention to all pairs ("full": one bucket of T tokens), and evaluates the
trained weights with each of them. Runs stay in --workdir and are resumed.

  python experiments/duplication.py [--quick]
"""

import pathlib
from collections.abc import Callable
from typing import Any

import ml_collections
from arguments import (
  define_count,
  define_quick,
  define_workdir,
  open_workdir,
  result_name,
)
from configurations import load_config
from record import COMMIT, join_commits, print_table, save
from training_runs import commits_of_run, train

from slim import command_line
from slim.training import build
from slim.training.evaluation import make_evaluation

_QUICK = define_quick("Train the config's smoke variant.")
_STEPS = define_count("steps", None, "Training steps; default: the config's.")
_WORKDIR = define_workdir("runs/duplication")

TRAINED = ("full", "lsh-4", "lsh-2", "lsh-1")
EVALUATED = ("full", "lsh-8", "lsh-4", "lsh-2", "lsh-1")


def main() -> None:
  """Trains, evaluates, prints and saves."""
  with open_workdir(_WORKDIR, _QUICK) as workdir:
    rows = measure(workdir)
  save(
    result_name("duplication", _STEPS),
    rows,
    quick=_QUICK.value,
    unit="accuracy, %, of the second w, 16 batches of validation",
  )


def measure(workdir: pathlib.Path) -> list[dict[str, object]]:
  """Trains with each attention, and evaluates with all of them."""
  evaluations = {name: make_accuracy(make_config(name)) for name in EVALUATED}
  rows = []
  for trained in TRAINED:
    config = make_config(trained)
    steps = config.train.num_steps
    folder = workdir / f"{trained}-{steps}"
    params, _ = train(config, folder)
    found = {name: accuracy(params) for name, accuracy in evaluations.items()}
    row = {"trained": trained, "steps": steps, **found}
    rows.append(
      row | {"commit": join_commits([*commits_of_run(folder), COMMIT])}
    )
    print_table(rows)
  return rows


def make_config(attention: str) -> ml_collections.ConfigDict:
  """Makes the settings for "full" or for "lsh-R", R rounds of hashing."""
  config = load_config("duplication", _QUICK.value)
  if attention == "full":
    config.model.bucket_size = config.data.sequence_length
    config.model.num_hashes = 1
  else:
    config.model.num_hashes = int(attention.removeprefix("lsh-"))
  if _STEPS.value is not None:
    config.train.num_steps = _STEPS.value
  return config


def make_accuracy(config: ml_collections.ConfigDict) -> Callable[[Any], float]:
  """Makes the evaluation of parameters with the attention of `config`.

  Args:
    config: All settings.

  Returns:
    `accuracy(params)`, in percent. It compiles once for all parameters.
  """
  evaluate = make_evaluation(
    build.create_model(config),
    build.create_split(config, "validation", config.train.batch_size),
    batch_size=config.train.batch_size,
    chunk_size=config.data.sequence_length,
  )

  def accuracy(params):
    sums = evaluate(params)
    return 100 * float(sums.correct / sums.weight)

  return accuracy


if __name__ == "__main__":
  command_line.run(main)
