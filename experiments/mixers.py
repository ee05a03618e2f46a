"""Models that differ in what mixes their tokens, trained on the same batches.

All have the same width and depth, and so not the same number of parameters. Two
tasks:

- text: a text, byte by byte;
- recall: `slim.data.AssociativeRecall` with 16 pairs. A state of one size holds
  so many pairs only, so softmax attention, the delta rule and linear attention
  differ in how soon, and whether, they recall.

Gradients are `full`, which is the fastest at these lengths; `slim` returns the
same. Runs stay in --workdir and are resumed.

  python experiments/mixers.py --task=text --text=input.txt [--steps=1000]
  python experiments/mixers.py --task=recall [--steps=1500]
"""

import pathlib
from typing import Any, NamedTuple

import ml_collections
from absl import flags
from arguments import (
  define_data,
  define_names,
  define_quick,
  define_workdir,
  open_workdir,
  result_name,
)
from configurations import load_config
from figures import (
  BLUE,
  GRAY,
  GREEN,
  OCHRE,
  PINK,
  PURPLE,
  RED,
  TEAL,
  label_lines,
  new_figure,
)
from record import print_table, read, results_path, save
from training_runs import describe_data, shorten, summarize, train

from slim import command_line

# The setting `attention`, and the color and marker of the line, by the names in
# the table and the figure.
MIXERS = {
  "softmax": ("chunked_softmax", RED, "o"),
  "local": ("local", PINK, "s"),
  "linear": ("linear", GRAY, "x"),
  "RetNet": ("retention", OCHRE, "D"),
  "SSD": ("ssd", PURPLE, "P"),
  "GLA": ("gla", TEAL, "^"),
  "delta rule": ("delta", GREEN, "v"),
  "gated DeltaNet": ("gdn", BLUE, "o"),
  "KDA": ("kda", TEAL, "s"),
  "gated DeltaNet + softmax": ("gdn,chunked_softmax", BLUE, "x"),
}


class Task(NamedTuple):
  """What is learned, and how it is measured."""

  metric: str
  label: str
  steps: int
  learning_rate: float


TASKS = {
  "text": Task("bpc", "validation, bits per byte", 1000, 2e-3),
  "recall": Task("accuracy", "validation, accuracy", 1500, 2e-3),
}

_TASK = flags.DEFINE_enum("task", "recall", list(TASKS), "What is learned.")
_MIXERS = define_names(
  "mixers", list(MIXERS), MIXERS, "Some of them; default: all."
)
_TEXT = define_data()
_STEPS = flags.DEFINE_integer(
  "steps", None, "Training steps; default: as above.", lower_bound=1
)
_QUICK = define_quick("Three small models, 20 steps.")
_WORKDIR = define_workdir("runs/mixers")


def main() -> None:
  """Trains, prints, saves and draws."""
  quick, task = _QUICK.value, _TASK.value
  names = ["softmax", "linear", "delta rule"] if quick else _MIXERS.value
  rows: list[dict[str, Any]] = []
  curves = {}
  with open_workdir(_WORKDIR, _QUICK) as workdir:
    for name in names:
      config = make_config(task, name)
      row, curves[name] = measure(config, name, workdir)
      rows.append(row)
      print_table(rows)
  name = result_name(f"mixers_{task}", _MIXERS, _STEPS)
  save(
    name,
    rows,
    quick=quick,
    data=describe_data(config),
    curves=curves,
  )
  draw_results(quick, name)


def make_config(task: str, name: str) -> ml_collections.ConfigDict:
  """Makes the settings of a run.

  Args:
    task: A key of `TASKS`.
    name: A key of `MIXERS`.

  Returns:
    The settings.
  """
  quick = _QUICK.value
  config = load_config("shakespeare_gdn", quick)
  config.gradient.method = "full"
  config.model.update(
    attention=MIXERS[name][0],
    positions="sinusoidal",
    width=32 if quick else 128,
    num_layers=2,
    num_heads=2 if quick else 4,
    window=64,
  )
  config.optimizer.learning_rate = TASKS[task].learning_rate
  if task == "text":
    config.data.update(path=_TEXT.value or config.data.path)
    config.data.sequence_length = 64 if quick else 256
    config.train.batch_size = 4 if quick else 16
  else:
    # With a last norm and an output projection, softmax attention had not
    # learned to look at the token before after 2,000 steps.
    config.model.update(
      width=32 if quick else 64,
      num_heads=2,
      window=16,
      positions="learned",
      final_norm=False,
      output_projection=False,
    )
    config.data.update(
      name="recall", path=None, sequence_length=64, vocab_size=64
    )
    config.train.batch_size = 4 if quick else 32
  steps = 20 if quick else _STEPS.value or TASKS[task].steps
  shorten(config, steps, num_logs=20)
  config.train.eval_every = max(1, steps // 20)
  return config


def measure(
  config: ml_collections.ConfigDict, name: str, workdir: pathlib.Path
) -> tuple[dict[str, Any], list[tuple[int, float]]]:
  """Trains a model; returns its row of the table, and its curve."""
  task = TASKS[_TASK.value]
  steps, key = config.train.num_steps, f"eval/{task.metric}"
  folder = workdir / f"{_TASK.value}-{config.model.attention}-{steps}"
  params, records = train(config, folder)
  curve = [(x["step"], x[key]) for x in records if key in x]
  row = {"mixer": name, f"validation_{task.metric}": curve[-1][1]}
  return row | summarize(config, folder, params, records), curve


def draw_results(quick: bool = False, name: str = "") -> None:
  """Draws the stored results, by default those of --task."""
  name = name or f"mixers_{_TASK.value}"
  draw(read([name], quick)[name]["curves"], results_path(name, "svg", quick))


def draw(
  curves: dict[str, list[tuple[int, float]]], path: pathlib.Path
) -> None:
  """Draws the validation metric against the steps."""
  with new_figure(path, size=(7, 4)) as (_, axis):
    for name, curve in curves.items():
      _, color, marker = MIXERS[name]
      axis.plot(
        *zip(*curve, strict=True),
        label=name,
        color=color,
        marker=marker,
        markersize=4,
      )
    axis.set_xlabel("step")
    axis.set_ylabel(TASKS[_TASK.value].label)
    label_lines(axis)


if __name__ == "__main__":
  command_line.run(main)
