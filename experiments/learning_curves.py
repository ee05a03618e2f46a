"""Training curves of full, slim and full_then_slim from one seed.

Trains `configs/shakespeare_slim.py` with each gradient method on the text that
is given, and compares the losses that were logged.

  python experiments/learning_curves.py --text=input.txt
"""

import importlib.util
import pathlib

from absl import app, flags
from record import print_table, save

from slim.metrics import read_records
from slim.train import train_and_evaluate

_TEXT = flags.DEFINE_string("text", None, "Tiny Shakespeare, or any text.")
_STEPS = flags.DEFINE_integer("steps", 1000, "Training steps.")
_WORKDIR = flags.DEFINE_string(
  "workdir", "runs/learning_curves", "Of the runs."
)
_CONFIG = pathlib.Path(__file__).parents[1] / "configs/shakespeare_slim.py"
_METHODS = ("full", "slim", "full_then_slim")


def main(argv: list[str]) -> None:
  """Trains, compares, prints and saves."""
  del argv
  spec = importlib.util.spec_from_file_location("shakespeare_slim", _CONFIG)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  curves = {}
  for method in _METHODS:
    config = module.get_config()
    config.data.path = _TEXT.value
    config.gradient.method = method
    config.train.num_steps = _STEPS.value
    config.train.log_every = max(1, _STEPS.value // 100)
    config.train.eval_every = max(1, _STEPS.value // 4)
    folder = pathlib.Path(_WORKDIR.value) / f"{method}-{_STEPS.value}"
    train_and_evaluate(config, str(folder))
    curves[method] = read_records(str(folder / "metrics.jsonl"))
  rows = []
  for records in zip(*curves.values(), strict=True):
    by_method = dict(zip(curves, records, strict=True))
    full = by_method["full"]
    key = "train/bpc" if "train/bpc" in full else "eval/bpc"
    row = {"step": full["step"], "metric": key}
    for method, found in by_method.items():
      row[method] = found[key]
    for method in _METHODS[1:]:
      row[f"{method}_relative_difference"] = abs(row[method] / row["full"] - 1)
    rows.append(row)
  print_table(rows)
  worst = {
    method: max(row[f"{method}_relative_difference"] for row in rows)
    for method in _METHODS[1:]
  }
  print("largest relative difference from full:", worst)
  save("learning_curves", rows, largest_relative_difference=worst)


if __name__ == "__main__":
  flags.mark_flag_as_required("text")
  app.run(main)
