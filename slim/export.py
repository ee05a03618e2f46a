"""Exports the weights of a run: `python -m slim.export --workdir=… --output=…`.

`slim.runs.weights.load_weights` reads the file. A new run starts from it with
`--config.train.init_from=model.safetensors`.
"""

from absl import flags

from slim import command_line
from slim.runs.trained import load_run
from slim.runs.weights import save_weights


def export_workdir(workdir: str, output: str) -> int:
  """Writes the parameters of the newest checkpoint of a run.

  Args:
    workdir: The folder of the run.
    output: The safetensors file, which must not exist.

  Returns:
    The number of updates behind these parameters.

  Raises:
    ValueError: If there is no checkpoint, or the file exists or cannot be
      written.
  """
  output = command_line.check_output(output)  # Before the arrays are read.
  trained = load_run(workdir)
  step = int(trained.state.step)
  try:
    save_weights(output, trained.state.params, trained.config, step)
  except ValueError as error:
    raise ValueError(f"--{error}") from error
  return step


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
