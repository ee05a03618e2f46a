"""The memory of a gradient: `python -m slim.memory --config=…`.

Prints what the gradient of a config needs, and the largest buffers at the peak
of its activations with the lines that made them; `--output=memory.svg` draws
the activations over the program. Nothing is run, and no data is read.
"""

from collections.abc import Iterator

import jax
import jax.numpy as jnp
import ml_collections
from absl import flags

from slim import command_line
from slim import config as config_lib
from slim.config import setting_flags
from slim.files import local_path, writing
from slim.memory.rendering import (
  check_output,
  describe_peak,
  plot_timelines,
)
from slim.memory.report import MemoryReport
from slim.memory.timeline import MemoryTimeline, analyse
from slim.training import build
from slim.training.gradients import COMPILER_OPTIONS


def analyse_config(
  config: ml_collections.ConfigDict,
) -> Iterator[tuple[str, MemoryReport, MemoryTimeline]]:
  """Compiles the gradient of a config, as training does, by each method.

  Args:
    config: All settings.

  Yields:
    The method, and the report and the timeline of its gradient.

  Raises:
    ValueError: If a setting does not fit.
  """
  config_lib.validate(config)
  experiment = build.create_experiment(config)
  params = jax.eval_shape(lambda: build.init(experiment)).params
  batch = build.abstract_batch(config)
  step = jax.ShapeDtypeStruct((), jnp.int32)
  for method, gradient_step in experiment.gradient_steps.items():
    with jax.default_matmul_precision(config.matmul_precision):
      found = analyse(
        gradient_step, params, batch, step, compiler_options=COMPILER_OPTIONS
      )
    yield method, *found


def describe(
  method: str, report: MemoryReport, timeline: MemoryTimeline
) -> str:
  """Returns the memory of a gradient in lines for people."""
  rows = {
    "arguments": report.argument_bytes,
    "outputs": report.output_bytes,
    "activations": report.temporary_bytes,
    "total": report.total_bytes,
  }
  return "\n".join(
    [
      f"gradient by {method}, MiB",
      *(f"  {name:<11}  {n / 2**20:>11,.2f}" for name, n in rows.items()),
      "  at the peak of the activations, the largest of them:",
      *(f"    {line}" for line in describe_peak(timeline)),
    ]
  )


def main(argv: list[str] | None = None) -> None:
  """Runs the command line.

  Args:
    argv: The program and its arguments; None: those of this process.
  """
  config = setting_flags.define_config()
  output = flags.DEFINE_string("output", None, "The figure, a new file.")

  def show():
    path = output.value
    if path is not None:
      path = local_path("--output", path)
      _naming_output(check_output, path)
    timelines = {}
    for method, report, timeline in analyse_config(config.value):
      print(describe(method, report, timeline), flush=True)
      timelines[f"activations of {method}"] = timeline
    if path is not None:
      with writing(path, "--output"):
        _naming_output(plot_timelines, timelines, path)

  command_line.run(show, argv)


def _naming_output(function, *args):
  """Calls a function whose errors begin with the name of the flag."""
  try:
    function(*args)
  except ValueError as error:
    raise ValueError(f"--{error}") from error


if __name__ == "__main__":
  main()
