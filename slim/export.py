"""Writes the weights of a run to a file, to share them or to start from them.

`python -m slim.export --workdir=runs/x --output=model.safetensors`;
`slim.runs.weights.load_weights` reads the file, and a new run starts from it
with `--config.train.init_from=model.safetensors`.
"""

from absl import flags

from slim import command_line
from slim.files import check_new_file, local_path
from slim.runs.weights import save_weights
from slim.runs.workdir import read_config
from slim.training.build import (
  create_experiment,
  restore_run,
)


def export_workdir(workdir: str, output: str) -> int:
  """Writes the parameters of the newest checkpoint of a run.

  Args:
    workdir: The folder of the run.
    output: The safetensors file, which must not exist.

  Returns:
    The updates that the parameters have had.

  Raises:
    ValueError: If there is no checkpoint, the file exists, or it cannot be
      written.
  """
  workdir = local_path("--workdir", workdir)
  output = local_path("--output", output)
  check_new_file("--output", output)  # Or the arrays would be read for nothing.
  config = read_config(workdir)
  state, _ = restore_run(workdir, create_experiment(config))
  try:
    save_weights(output, state.params, config, int(state.step))
  except ValueError as error:
    raise ValueError(f"--{error}") from error
  return int(state.step)


def main(argv: list[str] | None = None) -> None:
  """Runs the command line.

  Args:
    argv: The program and its arguments; None: those of this process.
  """
  workdir = flags.DEFINE_string(
    "workdir", None, "Folder of the run.", required=True
  )
  output = flags.DEFINE_string(
    "output", None, "The safetensors file to write.", required=True
  )

  def export():
    step = export_workdir(workdir.value, output.value)
    print(f"{output.value}: the weights of {workdir.value} after step {step}")

  command_line.run(export, argv)


if __name__ == "__main__":
  main()
