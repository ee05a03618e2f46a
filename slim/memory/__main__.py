"""Measure the memory of a gradient: `python -m slim.memory --config=…`.

Prints arguments, outputs and activations of the gradient of a config, and the
largest buffers at the peak with the source lines that allocate them.
`--output=memory.svg` draws the activations over the program. Nothing is run,
and no data is read.
"""

import contextlib
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
from slim.memory.timeline import MemoryTimeline, analyze
from slim.training import build
from slim.training.gradients import COMPILER_OPTIONS


def analyze_config(
  config: ml_collections.ConfigDict,
) -> Iterator[tuple[str, MemoryReport, MemoryTimeline]]:
  """Compiles the gradients of a config as training does, and analyzes them.

  Args:
    config: All settings.

  Yields:
    For each gradient method: its name, report and timeline.

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
      found = analyze(
        gradient_step, params, batch, step, compiler_options=COMPILER_OPTIONS
      )
    yield method, *found


def describe(
  method: str, report: MemoryReport, timeline: MemoryTimeline
) -> str:
  """Formats the memory of a gradient as lines of text."""
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
      "  largest buffers at the peak of the activations:",
      *(f"    {line}" for line in describe_peak(timeline)),
    ]
  )


def main(argv: list[str] | None = None) -> None:
  """Runs the command line.

  Args:
    argv: Program name and arguments. Default: `sys.argv`.
  """
  config = setting_flags.define_config()
  output = flags.DEFINE_string(
    "output", None, "Draw the figure to this new file."
  )

  def show() -> None:
    path = output.value
    if path is not None:
      path = local_path("--output", path)
      with _name_flag():
        check_output(path)
    timelines = {}
    for method, report, timeline in analyze_config(config.value):
      print(describe(method, report, timeline), flush=True)
      timelines[f"activations of {method}"] = timeline
    if path is not None:
      with writing(path, "--output"), _name_flag():
        plot_timelines(timelines, path)

  command_line.run(show, argv)


@contextlib.contextmanager
def _name_flag() -> Iterator[None]:
  """Makes errors that begin with "output" begin with the flag "--output"."""
  try:
    yield
  except ValueError as error:
    raise ValueError(f"--{error}") from error


if __name__ == "__main__":
  main()
