"""A Transformer, a Reformer and a Performer, trained on the same tokens.

Each named file of `configs/` trains with its own settings, except for the text
and the number of steps. The curves show which model learns most per token, the
table also how fast each is on this machine and what it writes. Runs stay in
--workdir and are resumed.

  python experiments/model_curves.py --text=input.txt [--steps=500] [--quick]
"""

import itertools
import pathlib
from typing import Any

import jax
import ml_collections
import numpy as np
from arguments import (
  CONFIGS,
  define_count,
  define_data,
  define_names,
  define_quick,
  define_workdir,
  open_workdir,
  result_name,
)
from configurations import load_config
from figures import BLUE, OCHRE, PURPLE, RED, TEAL, label_lines, new_figure
from record import (
  COMMIT,
  join_commits,
  print_table,
  read,
  results_path,
  save,
)
from training_runs import (
  commits_of_run,
  describe_data,
  shorten,
  summarize,
  train,
)

from slim import command_line
from slim.generate import Sampling, generate
from slim.training.build import create_model

# What each model continues, and how: as --prompt, --length and --temperature.
_PROMPT, _LENGTH, _TEMPERATURE = "ROMEO:", 200, 0.8
_LABELS = {
  "shakespeare_transformer": "Transformer",
  "shakespeare_reformer": "Reformer",
  "shakespeare_slim": "Performer, by SLiM",
}
_CONFIGS = define_names(
  "configs",
  ["shakespeare_transformer", "shakespeare_reformer", "shakespeare_slim"],
  CONFIGS,
  "Files of configs/ with equal batches.",
)
_TEXT = define_data()
_STEPS = define_count("steps", 1000, "Training steps.")
_QUICK = define_quick("The smoke variants of the configs, 20 steps.")
_WORKDIR = define_workdir("runs/model_curves")


def main() -> None:
  """Trains, prints, saves and draws."""
  quick = _QUICK.value
  configs = {name: make_config(name) for name in _CONFIGS.value}
  with open_workdir(_WORKDIR, _QUICK) as workdir:
    rows, curves = measure(configs, workdir)
  data = describe_data(configs[_CONFIGS.value[0]])
  name = result_name("model_curves", _CONFIGS, _STEPS)
  save(name, rows, quick=quick, data=data, curves=curves)
  draw_results(quick, name)


def make_config(name: str) -> ml_collections.ConfigDict:
  """Makes the settings of a run."""
  config = load_config(name, _QUICK.value)
  config.data.path = _TEXT.value or config.data.path
  shorten(config, 20 if _QUICK.value else _STEPS.value, num_logs=20)
  return config


def measure(
  configs: dict[str, ml_collections.ConfigDict], workdir: pathlib.Path
) -> tuple[list[dict[str, Any]], dict[str, list[tuple[int, float]]]]:
  """Trains configs; returns a row of the table and the curve of each."""
  rows, curves = [], {}
  for name, config in configs.items():
    steps = config.train.num_steps
    folder = workdir / f"{name}-{steps}"
    params, records = train(config, folder)
    training = [x for x in records if "train/bpc" in x]
    curves[name] = [(x["step"], x["train/bpc"]) for x in training]
    *_, last = (x for x in records if "eval/bpc" in x)
    rows.append(
      {
        "config": name,
        "validation_bpc": last["eval/bpc"],
        "activation_MiB": training[-1]["memory/activation_bytes"] / 2**20,
        "text": write_text(config, params),
      }
      | summarize(config, folder, params, records)
      | {"commit": join_commits([*commits_of_run(folder), COMMIT])}
    )
    print_table([{k: v for k, v in row.items() if k != "text"} for row in rows])
  return rows, curves


def write_text(config: ml_collections.ConfigDict, params: Any) -> str:
  """Returns a prompt and what the model of a run continues it with."""
  prompt = np.frombuffer(_PROMPT.encode(), np.uint8).astype(np.int32)
  with jax.default_matmul_precision(config.matmul_precision):
    [tokens] = generate(
      create_model(config),
      params,
      prompt[None],
      length=_LENGTH,
      key=jax.random.key(0),
      sampling=Sampling(temperature=_TEMPERATURE),
    )
  return _PROMPT + bytes(np.asarray(tokens).tolist()).decode(errors="replace")


def draw_results(quick: bool = False, name: str = "model_curves") -> None:
  """Draws the stored results."""
  draw(read([name], quick)[name]["curves"], results_path(name, "svg", quick))


def draw(
  curves: dict[str, list[tuple[int, float]]], path: pathlib.Path
) -> None:
  """Draws the training losses."""
  colors = itertools.cycle((RED, TEAL, BLUE, OCHRE, PURPLE))
  with new_figure(path, size=(7, 4)) as (_, axis):
    for name, curve in curves.items():
      label = _LABELS.get(name, name)
      axis.plot(*zip(*curve, strict=True), label=label, color=next(colors))
    axis.set_xlabel("step")
    axis.set_ylabel("training loss, bits per byte")
    label_lines(axis)


if __name__ == "__main__":
  command_line.run(main)
