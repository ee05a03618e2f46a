"""Declarations of settings: types, limits, and the name in every error."""

import dataclasses

import pytest

from slim.settings import (
  SettingError,
  check_settings,
  list_settings,
  prefix_setting_errors,
  setting,
)


@dataclasses.dataclass(frozen=True)
class Settings:
  """Settings of each kind."""

  width: int = setting(8, "A size.")
  rate: float = setting(0.5, "A share.", minimum=0, below=1)
  kind: str = setting("a", "A choice.", choices=("a", "b"))
  limit: int | None = setting(None, "A limit.")


def test_declarations_are_complete():
  """Fails if a flag would have another type, default or help."""
  declarations = list_settings(Settings)
  assert [x.name for x in declarations] == ["width", "rate", "kind", "limit"]
  assert [x.kind for x in declarations] == [int, float, str, int]
  assert [x.optional for x in declarations] == [False] * 3 + [True]
  assert [x.default for x in declarations] == [8, 0.5, "a", None]
  check_settings(Settings(limit=3))


@pytest.mark.parametrize(
  ("values", "message"),
  [
    (dict(width=0), "width must be > 0, got 0"),
    (dict(width=1.5), "width must be of type int, got 1.5"),
    (dict(width=True), "width must be of type int, got True"),
    (dict(width=None), "width must be of type int, got None"),
    (dict(width=2**31), "width must be below 2^31, got 2147483648"),
    (dict(rate=1), "rate must be in [0, 1), got 1"),
    (dict(rate=float("nan")), "rate must be in [0, 1), got nan"),
    (dict(kind="c"), "kind must be one of ('a', 'b'), got 'c'"),
    (dict(limit=-1), "limit must be > 0, got -1"),
  ],
)
def test_a_wrong_value_is_named(values, message):
  """Fails if a bad value reaches the code that uses it."""
  with pytest.raises(SettingError) as error:
    check_settings(Settings(**values))
  assert str(error.value) == message


@pytest.mark.parametrize(
  ("raised", "setting", "message"),
  [
    (SettingError("path", ": empty"), "config.data.path", "path: empty"),
    (SettingError("width", "is odd"), "config.data.width", "width is odd"),
    (ValueError("path: empty"), "config.data.path", "path: empty"),
    (ValueError("width must be even"), "config.data.width", "width must be ev"),
  ],
)
def test_a_prefix_names_the_setting_that_the_user_gave(
  raised, setting, message
):
  """Fails if an error names an argument that the user never gave."""
  with pytest.raises(SettingError) as error:
    with prefix_setting_errors("config.data."):
      raise raised
  assert error.value.setting == setting
  assert str(error.value).startswith(f"config.data.{message}")
