"""Settings: dataclass fields with a default, a description and their limits.

The part of slim that uses a setting declares it, once:

    @dataclasses.dataclass(frozen=True)
    class OptimizerSettings:
      beta1: float = setting(0.9, "β₁ of Adam.", minimum=0, below=1)

`slim.config` makes the groups of a config from such classes, and the flags of
the command line from the config.
"""

import contextlib
import dataclasses
import math
import numbers
import re
import types
import typing
from collections.abc import Iterator
from typing import Any, NamedTuple

_INT_BOUND = 2**31  # Steps and sizes are int32 on devices.


class SettingError(ValueError):
  """A setting that cannot work.

  Attributes:
    setting: Its name, as in "width" or "config.model.width".
    problem: What is wrong and what to do, to be read after the name.
  """

  def __init__(self, setting: str, problem: str):
    """Makes the error; its message is "SETTING PROBLEM"."""
    self.setting = setting
    self.problem = problem
    # "name: problem" where the problem is a sentence of its own.
    space = "" if problem.startswith(":") else " "
    super().__init__(f"{setting}{space}{problem}")


class Setting(NamedTuple):
  """The declaration of a setting.

  Attributes:
    name: Its name.
    kind: The type of its value, where it is not None.
    optional: Whether it may be None.
    default: Its default.
    about: One or more sentences about it, with its unit.
    choices: The values it may have; (): any.
    minimum: The smallest number it may be; None: numbers must be above 0.
    below: What a number must be below; needs `minimum`. None: 2^31 for an int,
      else no limit.
    is_path: Whether it names a file or folder on this machine.
  """

  name: str
  kind: type
  optional: bool
  default: Any
  about: str
  choices: tuple[Any, ...]
  minimum: float | None
  below: float | None
  is_path: bool = False

  def check(self, value: Any) -> None:
    """Raises unless the setting may have this value.

    Args:
      value: The value.

    Raises:
      SettingError: It names the setting, what it must be, and what it is.
    """
    if value is None and self.optional:
      return
    expected = self._expected(value)
    if expected is not None:
      raise SettingError(self.name, f"must be {expected}, got {value!r}")

  def _has_type(self, value):
    """Whether the value has the type; an integer is a float, too."""
    if self.kind in (int, float) and not isinstance(value, bool):
      number = numbers.Integral if self.kind is int else numbers.Real
      return isinstance(value, number)
    return type(value) is self.kind

  def _expected(self, value):
    """Returns what the value should have been, or None if it is fine."""
    if not self._has_type(value):
      return f"of type {self.kind.__name__}"
    if self.choices:
      return None if value in self.choices else f"one of {self.choices}"
    if self.kind not in (int, float):
      return None
    if self.minimum is not None and self.below is not None:
      if not self.minimum <= value < self.below:
        return f"in [{self.minimum}, {self.below})"
    elif not abs(value) < math.inf:  # Also NaN.
      return "a finite number" + " or None" * self.optional
    elif self.minimum is not None and value < self.minimum:
      return f">= {self.minimum}"
    elif self.minimum is None and value <= 0:
      return "> 0"
    if self.kind is int and self.below is None and value >= _INT_BOUND:
      return "below 2^31"
    return None


def setting(
  default: Any,
  about: str,
  *,
  choices: tuple[Any, ...] = (),
  minimum: float | None = None,
  below: float | None = None,
  is_path: bool = False,
) -> Any:
  """Declares a field of a settings dataclass; see `Setting` for the arguments.

  Args:
    default: Its default. None needs a type such as `int | None`.
    about: One or more sentences about it, with its unit.
    choices: The values it may have; (): any.
    minimum: The smallest number it may be; None: numbers must be above 0.
    below: What a number must be below; needs `minimum`.
    is_path: Whether it names a file or folder on this machine.

  Returns:
    The field.
  """
  return dataclasses.field(
    default=default,
    metadata={
      "about": about,
      "choices": choices,
      "minimum": minimum,
      "below": below,
      "is_path": is_path,
    },
  )


def list_settings(settings: type) -> list[Setting]:
  """Lists the settings that a dataclass declares, in their order.

  Args:
    settings: A dataclass, all of whose fields are made by `setting`.

  Returns:
    Their declarations.
  """
  hints = typing.get_type_hints(settings)
  found = []
  for field in dataclasses.fields(settings):
    hint = hints[field.name]
    optional = isinstance(hint, types.UnionType)
    if optional:
      (hint,) = (x for x in typing.get_args(hint) if x is not type(None))
    kind = typing.get_origin(hint) or hint
    found.append(
      Setting(field.name, kind, optional, field.default, **field.metadata)
    )
  return found


def check_settings(settings: Any) -> None:
  """Raises unless each setting has a type and a value that it may have.

  Args:
    settings: An instance of a settings dataclass.

  Raises:
    SettingError: It names the setting, what it must be, and what it is.
  """
  for declaration in list_settings(type(settings)):
    declaration.check(getattr(settings, declaration.name))


@contextlib.contextmanager
def prefix_setting_errors(prefix: str) -> Iterator[None]:
  """Names settings as the user gave them, in the errors raised inside.

  What is created from a group of settings has arguments of the same names, and
  says "width must be …": inside this context "config.model.width must be …".

  Args:
    prefix: What comes before the name, such as "config.model.".

  Yields:
    Nothing.

  Raises:
    SettingError: As raised inside, with the prefix before the name. A plain
      ValueError, such as one of a kernel, becomes one: its message must begin
      with the name.
  """
  try:
    yield
  except SettingError as error:
    raise SettingError(prefix + error.setting, error.problem) from error
  except ValueError as error:
    match = re.match(r"(\w+)(?: |(?=:))", message := str(error))
    if match is None:
      raise ValueError(f"{prefix}{message}") from error
    raise SettingError(prefix + match[1], message[match.end() :]) from error
