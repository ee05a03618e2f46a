"""Exports the weights of a run: `python -m slim.export --workdir=… --output=…`.

`slim.runs.weights.load_weights` reads the file. A new run starts from it with
`--config.train.init_from=model.safetensors`.
"""

from absl import flags

from slim import command_line
from slim.runs import choosing
from slim.runs.trained import load_run
from slim.runs.weights import save_weights


def export_workdir(workdir: str, output: str, step: str = "latest") -> int:
  """Writes the parameters of a checkpoint of a run.

  Args:
    workdir: The folder of the run, or of one checkpoint alone.
    output: The safetensors file, which must not exist.
    step: "latest", the newest checkpoint that is readable; "best"; or a step.

  Returns:
    The number of updates behind these parameters.

  Raises:
    ValueError: If there is no checkpoint, or the file exists or cannot be
      written.
  """
  output = command_line.check_output(output)  # Before the arrays are read.
  trained = load_run(workdir, step)
  done = int(trained.state.step)
  try:
    save_weights(output, trained.state.params, trained.config, done)
  except ValueError as error:
    raise ValueError(f"--{error}") from error
  return done


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

  step = flags.DEFINE_string("step", "latest", choosing.HELP)

  def export():
    done = export_workdir(workdir.value, output.value, step.value)
    print(f"{output.value}: the weights of {workdir.value} after step {done}")

  command_line.run(export, argv)


if __name__ == "__main__":
  main()
