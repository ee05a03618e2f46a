"""Measure the memory of a gradient: `python -m slim.memory --config=…`.

Prints arguments, outputs and activations of the gradient of a config, and the
largest buffers at the peak with the source lines that allocate them.
`--output=memory.svg` draws the activations over the program.
`--target=cuda:h100` compiles for that device, which need not be there. With
`--config.mesh` all numbers are those of one device. Nothing is run, and no data
is read.
"""

import contextlib
from collections.abc import Iterator

import jax
import ml_collections
from absl import flags

from slim import command_line
from slim import config as config_lib
from slim.config import setting_flags
from slim.config.byte_sizes import format_size
from slim.files import local_path
from slim.memory.rendering import (
  check_output,
  describe_peak,
  plot_timelines,
)
from slim.memory.report import MemoryReport
from slim.memory.timeline import MemoryTimeline, analyze
from slim.scale.collectives import list_collectives, summarize
from slim.targets import HERE, Target
from slim.targets.matrix_products import (
  count_operations,
  list_matrix_products,
)
from slim.targets.roofline import find_roofline
from slim.targets.target_flags import define_target
from slim.training import build, devices
from slim.training.compiled import compile_update
from slim.training.gradients import COMPILER_OPTIONS
from slim.training.shapes import abstract_state, tree_bytes


def analyze_config(
  config: ml_collections.ConfigDict, target: Target = HERE
) -> Iterator[tuple[str, MemoryReport, MemoryTimeline]]:
  """Compiles the gradients of a config as training does, and analyzes them.

  Args:
    config: All settings.
    target: What to compile for.

  Yields:
    For each gradient method: its name, report and timeline.

  Raises:
    ValueError: If a setting does not fit.
  """
  config_lib.validate(config)
  mesh = devices.create_mesh(config, target)
  experiment = build.create_experiment(config, mesh)
  shapes = _shapes(config, experiment)
  for method, gradient_step in experiment.gradient_steps.items():
    with jax.default_matmul_precision(config.matmul_precision):
      found = analyze(
        gradient_step,
        *shapes,
        compiler_options=COMPILER_OPTIONS,
        target=target,
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


def describe_target(
  config: ml_collections.ConfigDict,
  method: str,
  report: MemoryReport,
  update_bytes: int,
  target: Target,
) -> str:
  """Says whether training fits a target, and how long a gradient takes.

  Args:
    config: All settings.
    method: The method of the gradient.
    report: That of the gradient, compiled for the target.
    update_bytes: Temporary memory of the update, compiled for the target.
    target: The target.

  Returns:
    Lines of text; none for a device of this machine.
  """
  device, memory = target.accelerator, target.memory_bytes
  if device is None or memory is None:
    return ""
  mesh = devices.create_mesh(config, target)
  experiment = build.create_experiment(config, mesh)
  optimizer = tree_bytes(abstract_state(experiment).opt_state)
  # The update runs when the gradient has ended.
  needed = report.total_bytes + optimizer
  needed += max(0, update_bytes - report.temporary_bytes)
  with jax.default_matmul_precision(config.matmul_precision):
    products = list_matrix_products(
      experiment.gradient_steps[method], *_shapes(config, experiment)
    )
  effort = "" if device.gpu else f", compiled with effort {target.effort}"
  return (
    f"{'fits' if needed <= memory else 'does not fit'} {target.name}: needs "
    f"{format_size(needed)} of {format_size(memory)}, with "
    f"{format_size(optimizer)} for the optimizer{effort}\n"
    f"takes at least {1e3 * find_roofline(products, device).at_least:,.3g} ms, "
    f"by the roofline of {count_operations(products):,.3g} operations\n"
  )


def find_update_bytes(config: ml_collections.ConfigDict, target: Target) -> int:
  """Returns the temporary memory of the update, compiled as training does."""
  mesh = devices.create_mesh(config, target)
  experiment = build.create_experiment(config, mesh)
  with jax.default_matmul_precision(config.matmul_precision):
    return target.temporary_bytes(
      compile_update(config, experiment, abstract_state(experiment), target)
    )


def describe_communication(
  config: ml_collections.ConfigDict,
  timeline: MemoryTimeline,
  target: Target = HERE,
) -> str:
  """Says what a device of a mesh receives in one gradient.

  Args:
    config: All settings.
    timeline: That of the gradient.
    target: What it is compiled for.

  Returns:
    Lines of text; none for one device.
  """
  mesh = devices.create_mesh(config, target)
  if mesh is None:
    return ""
  collectives = list_collectives(timeline.program, mesh)
  return (
    f"each of {mesh.size} devices receives, MiB\n{summarize(collectives)}\n"
  )


def _shapes(config, experiment):
  """Returns the shapes of the arguments of a gradient step."""
  state = abstract_state(experiment)
  batch = devices.abstract_batch(config, experiment)
  return state.params, batch, state.step


def main(argv: list[str] | None = None) -> None:
  """Runs the command line.

  Args:
    argv: Program name and arguments. Default: `sys.argv`.
  """
  config = setting_flags.define_config()
  target = define_target()
  output = flags.DEFINE_string(
    "output", None, "Draw the figure to this new file."
  )

  def show() -> None:
    path = output.value
    if path is not None:
      path = local_path("--output", path)
      with _name_flag():
        check_output(path)
    timelines, chosen = {}, target()
    update_bytes = 0
    if chosen.accelerator is not None:
      update_bytes = find_update_bytes(config.value, chosen)
    for method, report, timeline in analyze_config(config.value, chosen):
      print(describe(method, report, timeline), flush=True)
      about_target = describe_target(
        config.value, method, report, update_bytes, chosen
      )
      sent = describe_communication(config.value, timeline, chosen)
      print(sent + about_target, end="", flush=True)
      timelines[f"activations of {method}"] = timeline
    if path is not None:
      with _name_flag():
        plot_timelines(timelines, path)

  def choose_device() -> None:
    target()
    devices.simulate_devices(config.value)

  command_line.run(show, argv, choose_device=choose_device)


@contextlib.contextmanager
def _name_flag() -> Iterator[None]:
  """Makes errors that begin with "output" begin with the flag "--output"."""
  try:
    yield
  except ValueError as error:
    raise ValueError(f"--{error}") from error


if __name__ == "__main__":
  main()
