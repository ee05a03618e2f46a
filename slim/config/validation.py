"""Validation: a setting that cannot work ends in one line that names it."""

import jax
import ml_collections

from slim.config.byte_sizes import parse_size
from slim.config.defaults import GROUPS, list_declarations
from slim.config.names import check_names, flatten
from slim.files import local_path
from slim.settings import SettingError, prefix_setting_errors
from slim.training import build, devices
from slim.training.optimizers import SCHEDULES


def validate(config: ml_collections.ConfigDict) -> None:
  """Raises if a setting cannot work, before anything is computed or written.

  Each rule belongs to the part of slim that uses the setting. A declaration
  limits one setting, and `check` of a group relates its settings. The model and
  the gradient are built to check what fits them, without computing anything.
  Files are read later, when the data is created.

  Args:
    config: All settings.

  Raises:
    SettingError: One line: the setting, what it must be, and what it is.
  """
  check_names(config)
  flat = flatten(config)
  for name, declaration in list_declarations().items():
    with prefix_setting_errors(f"config.{name.removesuffix(declaration.name)}"):
      declaration.check(flat[name])
    if declaration.is_path and flat[name] is not None:
      local_path(f"config.{name}", flat[name])
  for group, settings in GROUPS.items():
    if hasattr(settings, "check"):
      with prefix_setting_errors(f"config.{group}."):
        settings(**config[group]).check()
  _check_groups(config)
  jax.eval_shape(lambda: _build(config))


def depends_on_num_steps(config: ml_collections.ConfigDict) -> bool:
  """Tells whether a longer run has other numbers at the same step.

  Args:
    config: All settings.

  Returns:
    Whether the learning rate or the gradient depend on `train.num_steps`.
  """
  schedule = SCHEDULES[config.optimizer.schedule]
  return (
    schedule.depends_on_num_steps or config.gradient.method == "full_then_slim"
  )


def _check_groups(config: ml_collections.ConfigDict) -> None:
  """Raises if settings of two groups do not fit each other."""
  devices.check_mesh(config)
  if config.gradient.memory_budget is not None:
    parse_size("config.gradient.memory_budget", config.gradient.memory_budget)
  if config.model.reversible and config.gradient.method == "remat":
    raise SettingError(
      "config.gradient.method",
      "cannot be 'remat' with config.model.reversible=True, which keeps no "
      "activations: use 'full' or 'slim'",
    )
  if config.optimizer.name == "adafactor" and config.model.stack_layers:
    raise SettingError(
      "config.optimizer.name",
      "cannot be 'adafactor' with config.model.stack_layers=True, because it "
      "would treat a stack of layers as one parameter: choose another",
    )
  traced, last = config.profile.steps, config.train.num_steps
  if traced and not (
    tuple(map(type, traced)) == (int, int)
    and 1 <= traced[0] <= traced[1] <= last
  ):
    raise SettingError(
      "config.profile.steps",
      f"must be FIRST,LAST with 1 <= FIRST <= LAST <= {last}, the last step, "
      f"or (), got {traced!r}",
    )


def _build(config: ml_collections.ConfigDict) -> tuple[()]:
  """Builds model and gradient, which check what fits them."""
  model = build.create_model(config)
  if config.gradient.memory_budget is None:
    build.make_gradient_steps(config, model)
  return ()
