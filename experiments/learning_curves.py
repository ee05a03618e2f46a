"""Training curves of full, slim and full_then_slim from one seed.

Trains `configs/shakespeare_slim.py` with each gradient method on the text that
is given, and compares the losses that were logged. Training magnifies rounding
errors: how much, "full_in_parts" shows, which is `full` over each half of the
batch after the other, the same gradient but for rounding. The paper's preset,
which learns next to nothing in these steps, magnifies them little.

  python experiments/learning_curves.py --text=input.txt [--paper]
"""

import importlib.util
import pathlib
from typing import Any

import ml_collections
from absl import app, flags
from record import print_table, save

from slim.metrics import read_records
from slim.train import train_and_evaluate

_TEXT = flags.DEFINE_string("text", None, "Tiny Shakespeare, or any text.")
_STEPS = flags.DEFINE_integer("steps", 1000, "Training steps.")
_PAPER = flags.DEFINE_bool("paper", False, "With the SLiM paper's model.")
_WORKDIR = flags.DEFINE_string(
  "workdir", "runs/learning_curves", "Of the runs."
)
_CONFIG = pathlib.Path(__file__).parents[1] / "configs/shakespeare_slim.py"
_METHODS = ("full", "slim", "full_then_slim", "full_in_parts")


def main(argv: list[str]) -> None:
  """Trains, compares, prints and saves."""
  del argv
  name = "learning_curves_paper" if _PAPER.value else "learning_curves"
  curves = {}
  for method in _METHODS:
    folder = pathlib.Path(_WORKDIR.value) / f"{name}-{method}-{_STEPS.value}"
    train_and_evaluate(make_config(method), str(folder))
    curves[method] = read_records(str(folder / "metrics.jsonl"))
  rows = []
  for records in zip(*curves.values(), strict=True):
    rows.append(compare(dict(zip(curves, records, strict=True))))
  print_table(rows)
  worst = {
    method: max(row[f"{method}_relative_difference"] for row in rows)
    for method in _METHODS[1:]
  }
  print("largest relative difference from full:", worst)
  save(name, rows, largest_relative_difference=worst)


def make_config(method: str) -> ml_collections.ConfigDict:
  """Makes the settings of a run."""
  spec = importlib.util.spec_from_file_location("shakespeare_slim", _CONFIG)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  config = module.get_config()
  if _PAPER.value:
    config.model.norm = "output"
    config.model.output_projection = False
    config.model.feature_map = "square"
    config.optimizer.learning_rate = 1e-3
    config.optimizer.schedule = "constant"
    config.optimizer.warmup_steps = 0
    config.optimizer.clip_norm = None
  in_parts = method == "full_in_parts"
  config.gradient.method = "full" if in_parts else method
  config.train.accumulation_steps = 2 if in_parts else 1
  config.data.name, config.data.path = "text", _TEXT.value
  config.train.num_steps = _STEPS.value
  config.train.log_every = max(1, _STEPS.value // 100)
  config.train.eval_every = max(1, _STEPS.value // 4)
  return config


def compare(records: dict[str, dict[str, Any]]) -> dict[str, Any]:
  """Compares the methods at one step, by their records."""
  full = records["full"]
  key = "train/bpc" if "train/bpc" in full else "eval/bpc"
  row = {"step": full["step"], "metric": key}
  row |= {method: found[key] for method, found in records.items()}
  for method in _METHODS[1:]:
    row[f"{method}_relative_difference"] = abs(row[method] / row["full"] - 1)
  return row


if __name__ == "__main__":
  flags.mark_flag_as_required("text")
  app.run(main)
