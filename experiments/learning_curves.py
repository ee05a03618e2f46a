"""Training by SLiM beside full gradients: Figure 4 of the SLiM paper.

Each of three tasks is trained with the paper's settings from one seed: with
`full`, with `slim` at two chunk sizes C, and with `full` for the first half of
the steps and `slim` for the second. Another run of `full`, from another seed,
shows how far two runs of the same method lie apart.

Runs stay in --workdir and are resumed, so a figure can be made in stretches: a
larger --steps continues the runs of `full` and `slim`. Runs that change to
`slim` do so in the middle of --steps, and begin anew with another --steps.
--steps=0 trains nothing and shows how far all runs have come; of those that
change to `slim`, it shows the longest. Some runs alone are stored as a part.

  python experiments/learning_curves.py --tasks=copying
  python experiments/learning_curves.py --tasks=ptb --ptb=FOLDER --steps=3000
  python experiments/learning_curves.py --tasks=enwik8 --enwik8=FILE --steps=300
"""

import json
import pathlib
from typing import NamedTuple

import ml_collections
from absl import flags
from arguments import (
  define_data,
  define_names,
  define_quick,
  define_workdir,
  open_workdir,
)
from configurations import load_config
from learning_curves_figure import Panel, draw
from record import join_commits, print_table, read, results_path, save
from training_runs import commits_of_run, train

from slim import command_line
from slim.config import validate
from slim.runs.metrics import read_records


class Task(NamedTuple):
  """A panel of the figure."""

  config: str  # File of configs/.
  chunk_sizes: tuple[int, int]  # C, tokens.
  metric: str
  label: str
  eval_every: int  # Steps.
  checkpoint_every: int  # Steps.


TASKS = {
  "copying": Task(
    "copying_slim", (128, 64), "accuracy", "accuracy", 1000, 1000
  ),
  "ptb": Task("ptb_slim", (512, 256), "bpc", "bits per byte", 500, 500),
  "enwik8": Task("enwik8_slim", (2048, 1366), "bpc", "bits per byte", 150, 50),
}
_OTHER_SEED = 43  # The seed of the configs is 42.

_TASKS = define_names("tasks", list(TASKS), TASKS, "What to train.")
_PTB = define_data("ptb", "Folder of PTB; default: as downloaded.")
_ENWIK8 = define_data("enwik8", "enwik8 or a part; default: as downloaded.")
_RUNS = flags.DEFINE_list("runs", None, "Some of the runs; default: all six.")
_STEPS = flags.DEFINE_integer(
  "steps", None, "Training steps; default: the paper's.", lower_bound=0
)
_WORKDIR = define_workdir("runs/learning_curves")
_QUICK = define_quick("Small models, 40 steps: a minute and a half.")


def main() -> None:
  """Trains, prints, saves and draws."""
  with open_workdir(_WORKDIR, _QUICK) as workdir:
    configs = {name: make_configs(name) for name in _TASKS.value}
    for name in configs:
      check(configs[name])
    for name in configs:
      record(name, train_task(name, configs[name], workdir))
  draw_results(_QUICK.value)


def list_runs(task: Task) -> list[str]:
  """Lists the runs of a task: "full", "full-seed", and "slim-C" for each C."""
  return ["full", "full-seed"] + [
    f"{method}-{chunk_size}"
    for method in ("slim", "full_then_slim")
    for chunk_size in task.chunk_sizes
  ]


def check(configs: dict[str, ml_collections.ConfigDict]) -> None:
  """Raises if the settings of a task or --runs are wrong."""
  if not set(_RUNS.value or ()) <= set(configs):
    raise ValueError(
      f"--runs must be some of {', '.join(configs)}, got "
      f"{','.join(_RUNS.value)}"
    )
  for config in configs.values():
    validate(config)


def train_task(
  name: str,
  configs: dict[str, ml_collections.ConfigDict],
  workdir: pathlib.Path,
) -> dict[str, pathlib.Path]:
  """Trains the runs of a task.

  Args:
    name: A key of `TASKS`.
    configs: The settings of its runs.
    workdir: The folder of all runs.

  Returns:
    The folder of each run that has a record of its training, by its label.
  """
  folders = {}
  for run, config in configs.items():
    folder = workdir / f"{name}-{run}"
    if config.gradient.method == "full_then_slim":
      folder = workdir / f"{name}-{run}-{config.train.num_steps}"
      if _STEPS.value == 0:
        others = workdir.glob(f"{name}-{run}-*")
        folder = max(others, key=_last_evaluation, default=folder)
    if run in (_RUNS.value or configs) and _STEPS.value != 0:
      train(config, folder)
    if (folder / "metrics.jsonl").exists():
      folders[run] = folder
  return folders


def _last_evaluation(folder):
  """Returns the last step that a run has evaluated; -1 if there is none."""
  path = folder / "metrics.jsonl"
  records = read_records(str(path)) if path.exists() else ()
  return max((x["step"] for x in records if "eval/loss" in x), default=-1)


def make_configs(name: str) -> dict[str, ml_collections.ConfigDict]:
  """Makes the settings of all runs of a task, `full` first."""
  task = TASKS[name]

  def make(method: str, chunk_size: int | None = None, seed: int | None = None):
    config = load_config(task.config, _QUICK.value)
    config.gradient.method = method
    if chunk_size and not _QUICK.value:
      config.gradient.chunk_size = chunk_size
    if chunk_size and _QUICK.value:  # The same C to T, for 64 tokens.
      full_length = load_config(task.config).data.sequence_length
      config.gradient.chunk_size = chunk_size * 64 // full_length
    config.seed = seed or config.seed
    path = {"ptb": _PTB.value, "enwik8": _ENWIK8.value}.get(name)
    if path is not None and not _QUICK.value:
      config.data.path = path
    train = config.train
    train.num_steps = _STEPS.value or (40 if _QUICK.value else train.num_steps)
    train.update(
      log_every=min(train.log_every, max(1, train.num_steps // 20)),
      eval_every=min(task.eval_every, max(1, train.num_steps // 2)),
      checkpoint_every=min(task.checkpoint_every, max(1, train.num_steps // 2)),
      keep_checkpoints=1,
    )
    return config

  configs = {}
  for run in list_runs(task):
    method, _, variant = run.partition("-")
    if variant == "seed":
      configs[run] = make(method, seed=_OTHER_SEED)
    else:
      configs[run] = make(method, int(variant) if variant else None)
  return configs


def record(name: str, folders: dict[str, pathlib.Path]) -> None:
  """Compares the runs of a task at the last step that all have evaluated."""
  task = TASKS[name]
  key = f"eval/{task.metric}"
  records = {
    run: read_records(str(folder / "metrics.jsonl"))
    for run, folder in folders.items()
  }
  evaluations = {
    run: {x["step"]: x[key] for x in found if key in x}
    for run, found in records.items()
  }
  evaluations = {run: found for run, found in evaluations.items() if found}
  common = set.intersection(*map(set, evaluations.values() or [()]))
  if not common:
    raise ValueError(
      f"--workdir must have runs of {name} that evaluated the same step: train "
      "them with a larger --steps"
    )
  step = max(common)
  curves = {
    run: [(x["step"], x[f"train/{task.metric}"]) for x in found if key not in x]
    for run, found in records.items()
    if run in evaluations
  }
  right = evaluations["full"][step] if "full" in evaluations else None
  rows = []
  for run in evaluations:
    row = {
      "run": run,
      "steps": records[run][-1]["step"],
      "compared_step": step,
      f"validation_{task.metric}": evaluations[run][step],
      f"training_{task.metric}": recent_mean(curves[run], step),
    }
    if right is not None:
      row["distance_to_full"] = abs(evaluations[run][step] - right)
      first, first_of_full = curves[run][0][1], curves["full"][0][1]
      row["first_distance_to_full"] = abs(first - first_of_full)
    rows.append(row | {"commit": join_commits(commits_of_run(folders[run]))})
  print_table(rows)
  spread = [x["distance_to_full"] for x in rows if x["run"] == "full-seed"]
  part = "" if evaluations.keys() == set(list_runs(task)) else "_part"
  save(
    f"learning_curves_{name}{part}",
    rows,
    quick=_QUICK.value,
    data=json.loads((folders[run] / "config.json").read_text())["data"],
    steps_of_paper=load_config(task.config).train.num_steps,
    spread=spread[0] if spread else None,
    evaluations=evaluations,
    curves=curves,
  )


def recent_mean(curve: list[tuple[int, float]], step: int) -> float:
  """Returns the mean of the last ten records of a curve up to a step."""
  recent = [value for at, value in curve if at <= step][-10:]
  return sum(recent) / len(recent)


def draw_results(quick: bool = False) -> None:
  """Draws the stored results of all tasks in one figure."""
  found = read((f"learning_curves_{name}" for name in TASKS), quick)
  panels = [
    Panel(name, task.label, list_runs(task), found[f"learning_curves_{name}"])
    for name, task in TASKS.items()
    if f"learning_curves_{name}" in found
  ]
  draw(panels, results_path("learning_curves", "svg", quick))


if __name__ == "__main__":
  command_line.run(main)
