"""Training curves side by side, from one seed.

Trains a file of `configs/` once for each of --runs and compares the logged
losses with those of the first run. A run is a gradient method, optionally with
a chunk size as in slim:256, or an attention such as chunked_softmax.
Training amplifies rounding errors. "full_in_parts" shows by how much: it is
`full` over one half of the batch after the other, the same gradient except for
rounding. Runs stay in --workdir and are resumed.

  python experiments/learning_curves.py --text=input.txt [--paper]
  python experiments/learning_curves.py --config=ptb_slim --text=FOLDER \
    --steps=1000 --runs=full,slim:512,slim:256,full_then_slim:512
  python experiments/learning_curves.py --config=enwik8_slim --text=FILE \
    --steps=200 --runs=full,slim:2048 --eval_batches=4
  python experiments/learning_curves.py --config=copying_slim --steps=15000 \
    --runs=full,slim:128,slim:64,full_then_slim:128
  python experiments/learning_curves.py --config=shakespeare_transformer \
    --text=input.txt --runs=softmax,chunked_softmax
"""

import pathlib
from typing import Any

import ml_collections
from absl import flags
from arguments import CONFIGS, define_count, define_data, define_workdir
from configurations import load_config
from figures import new_figure
from record import print_table, save
from runs import describe_data, shorten, train

from slim import command_line
from slim.config import validate
from slim.models.mixers import MIXERS

_CONFIG = flags.DEFINE_enum(
  "config", "shakespeare_slim", CONFIGS, "File of configs/."
)
_TEXT = define_data()
_RUNS = flags.DEFINE_list(
  "runs",
  ["full", "slim", "full_then_slim", "full_in_parts"],
  "Methods or attentions; the others are compared with the first.",
)
_STEPS = define_count("steps", 1000, "Training steps.")
_EVAL_BATCHES = define_count("eval_batches", None, "Default: the config's.")
_PAPER = flags.DEFINE_bool("paper", False, "Use the SLiM paper's model.")
_WORKDIR = define_workdir("runs/learning_curves")


def main() -> None:
  """Trains, compares, prints, saves and draws."""
  name = f"learning_curves_{_CONFIG.value}{'_paper' if _PAPER.value else ''}"
  curves = {}
  configs = {run: make_config(run) for run in _RUNS.value}
  if not configs or len(configs) < len(_RUNS.value):
    raise ValueError("--runs must be one or more different runs")
  for config in configs.values():
    validate(config)
  for run, config in configs.items():
    folder = f"{name}-{run.replace(':', '-')}-{_STEPS.value}"
    folder = pathlib.Path(_WORKDIR.value) / folder
    _, curves[run] = train(config, folder)
  rows = []
  for records in zip(*curves.values(), strict=True):
    rows.append(compare(dict(zip(curves, records, strict=True))))
  print_table(rows)
  worst = {
    run: max(row[f"{run}_relative_difference"] for row in rows)
    for run in _RUNS.value[1:]
  }
  print(f"largest relative difference from {_RUNS.value[0]}:", worst)
  path = save(
    name, rows, data=describe_data(config), largest_relative_difference=worst
  )
  draw(rows, _RUNS.value, path.with_suffix(".svg"))


def make_config(run: str) -> ml_collections.ConfigDict:
  """Makes the settings of a run."""
  config = load_config(_CONFIG.value)
  if _PAPER.value:
    config.model.norm = "output"
    config.model.output_projection = False
    config.model.feature_map = "square"
    config.optimizer.learning_rate = 1e-3
    config.optimizer.schedule = "constant"
    config.optimizer.warmup_steps = 0
    config.optimizer.clip_norm = None
  method, _, chunk_size = run.partition(":")
  if method == "full_in_parts":
    method, config.train.accumulation_steps = "full", 2
  if method in MIXERS:
    config.model.attention = method
  else:
    config.gradient.method = method
  if chunk_size:
    if not chunk_size.isdecimal():
      raise ValueError(f"--runs: the chunk size of {run!r} must be a number")
    config.gradient.chunk_size = int(chunk_size)
  config.data.path = _TEXT.value
  shorten(config, _STEPS.value, num_logs=100)
  if _EVAL_BATCHES.value:
    config.train.eval_batches = _EVAL_BATCHES.value
  return config


def compare(records: dict[str, dict[str, Any]]) -> dict[str, Any]:
  """Compares the records that the runs have of one step."""
  first, *others = records
  key = "train/bpc" if "train/bpc" in records[first] else "eval/bpc"
  row = {"step": records[first]["step"], "metric": key}
  row |= {run: found[key] for run, found in records.items()}
  for run in others:
    row[f"{run}_relative_difference"] = abs(row[run] / row[first] - 1)
  return row


def draw(
  rows: list[dict[str, Any]], runs: list[str], path: pathlib.Path
) -> None:
  """Draws the losses, and below them how far they are from the first run's."""
  rows = [row for row in rows if row["metric"] == "train/bpc"]
  steps = [row["step"] for row in rows]
  with new_figure(
    path, 2, 1, size=(6, 5), sharex=True, height_ratios=(2, 1)
  ) as (_, (losses, differences)):
    # The curves lie on each other, so each is thinner than the one below it.
    for number, run in enumerate(runs):
      width = 1 + 1.5 * (len(runs) - number - 1)
      color = f"C{number}"
      losses.plot(
        steps, [row[run] for row in rows], color, linewidth=width, label=run
      )
      if number:
        found = [row[f"{run}_relative_difference"] or None for row in rows]
        differences.plot(steps, found, f"{color}.")
    losses.set_ylabel("training loss, bits per byte")
    losses.legend()
    differences.set_ylabel(f"difference from {runs[0]}\n(relative)")
    differences.set_yscale("log")
    differences.set_xlabel("step")


if __name__ == "__main__":
  command_line.run(main)
