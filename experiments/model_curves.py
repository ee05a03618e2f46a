"""A Transformer, a Reformer and a Performer, trained on the same tokens.

Each file of `configs/` that is named trains with its own settings, but for the
text, the number of steps and the batches, which are those of the first. Which
one learns most from a token, and which from a second: a CPU's, where it ran.
Runs are kept in --workdir and resumed.

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
from record import RESULTS, print_table, save

from slim import command_line
from slim.runs.metrics import read_records
from slim.train import train_and_evaluate
from slim.training.build import (
  create_experiment,
  create_split,
  init,
)

_CONFIGS = define_names(
  "configs",
  ["shakespeare_transformer", "shakespeare_reformer", "shakespeare_slim"],
  CONFIGS,
  "Of configs/, with equal batches.",
)
_TEXT = define_data()
_STEPS = define_count("steps", 500, "Training steps.")
_WORKDIR = define_workdir("runs/model_curves")


def main() -> None:
  """Trains, prints, draws and saves."""
  rows, curves = [], {}
  for name in _CONFIGS.value:
    config = make_config(name)
    folder = pathlib.Path(_WORKDIR.value) / f"{name}-{_STEPS.value}"
    train_and_evaluate(config, str(folder))
    records = read_records(str(folder / "metrics.jsonl"))
    training = [x for x in records if "train/bpc" in x]
    curves[name] = [(x["step"], x["train/bpc"]) for x in training]
    *_, last = (x for x in records if "eval/bpc" in x)
    speeds = sorted(x["time/tokens_per_second"] for x in training)
    rows.append(
      {
        "config": name,
        "parameters": num_parameters(config),
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
  data = create_split(config, "train", config.train.batch_size).description
  save("model_curves", rows, data=data, curves=curves)
  draw(curves, RESULTS / "model_curves.svg")


def make_config(name: str) -> ml_collections.ConfigDict:
  """Makes the settings of a run."""
  config = load_config(name)
  config.data.path = _TEXT.value
  config.train.num_steps = _STEPS.value
  config.train.log_every = max(1, _STEPS.value // 50)
  config.train.eval_every = max(1, _STEPS.value // 4)
  config.train.checkpoint_every = max(1, _STEPS.value // 10)
  config.train.keep_checkpoints = 1
  return config


def num_parameters(config: ml_collections.ConfigDict) -> int:
  """Counts the parameters of a model."""
  state = jax.eval_shape(lambda: init(create_experiment(config)))
  return sum(x.size for x in jax.tree.leaves(state.params))


def draw(
  curves: dict[str, list[tuple[int, float]]], path: pathlib.Path
) -> None:
  """Draws the training losses."""
  import matplotlib

  matplotlib.use("Agg")
  from matplotlib import pyplot

  figure, axes = pyplot.subplots(figsize=(6, 4))
  for name, curve in curves.items():
    axes.plot(*zip(*curve, strict=True), label=name)
  axes.set_xlabel("step")
  axes.set_ylabel("training loss, bits a byte")
  axes.legend()
  figure.tight_layout()
  figure.savefig(path, metadata={"Date": None})


if __name__ == "__main__":
  command_line.run(main)
