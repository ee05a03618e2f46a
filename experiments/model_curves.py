"""A Transformer, a Reformer and a Performer, trained on the same tokens.

Each named file of `configs/` trains with its own settings, except for the text
and the number of steps. The curves show which model learns most per token, the
table also how fast each is on this machine. Runs stay in --workdir and are
resumed.

  python experiments/model_curves.py --text=input.txt [--steps=500]
"""

import pathlib

import jax
import ml_collections
from arguments import (
  CONFIGS,
  define_count,
  define_data,
  define_names,
  define_workdir,
)
from configurations import load_config
from figures import new_figure
from record import print_table, save
from runs import describe_data, shorten, train

from slim import command_line

_CONFIGS = define_names(
  "configs",
  ["shakespeare_transformer", "shakespeare_reformer", "shakespeare_slim"],
  CONFIGS,
  "Files of configs/ with equal batches.",
)
_TEXT = define_data()
_STEPS = define_count("steps", 500, "Training steps.")
_WORKDIR = define_workdir("runs/model_curves")


def main() -> None:
  """Trains, prints, saves and draws."""
  rows, curves = [], {}
  for name in _CONFIGS.value:
    config = make_config(name)
    folder = pathlib.Path(_WORKDIR.value) / f"{name}-{_STEPS.value}"
    params, records = train(config, folder)
    training = [x for x in records if "train/bpc" in x]
    curves[name] = [(x["step"], x["train/bpc"]) for x in training]
    *_, last = (x for x in records if "eval/bpc" in x)
    speeds = sorted(x["time/tokens_per_second"] for x in training)
    rows.append(
      {
        "config": name,
        "parameters": sum(x.size for x in jax.tree.leaves(params)),
        "steps": _STEPS.value,
        "tokens": _STEPS.value
        * config.train.batch_size
        * config.data.sequence_length,
        "validation_bpc": last["eval/bpc"],
        "median_tokens_per_second": speeds[len(speeds) // 2],
        "activation_mib": training[-1]["memory/activation_bytes"] / 2**20,
      }
    )
    print_table(rows)
  path = save("model_curves", rows, data=describe_data(config), curves=curves)
  draw(curves, path.with_suffix(".svg"))


def make_config(name: str) -> ml_collections.ConfigDict:
  """Makes the settings of a run."""
  config = load_config(name)
  config.data.path = _TEXT.value
  shorten(config, _STEPS.value, num_logs=50)
  return config


def draw(
  curves: dict[str, list[tuple[int, float]]], path: pathlib.Path
) -> None:
  """Draws the training losses."""
  with new_figure(path, size=(6, 4)) as (_, axis):
    for name, curve in curves.items():
      axis.plot(*zip(*curve, strict=True), label=name)
    axis.set_xlabel("step")
    axis.set_ylabel("training loss, bits per byte")
    axis.legend()


if __name__ == "__main__":
  command_line.run(main)
