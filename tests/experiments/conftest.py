"""Scripts of experiments/ as modules."""

import pathlib
import sys

import pytest
from absl import flags

FOLDER = pathlib.Path(__file__).parents[2] / "experiments"


@pytest.fixture
def beside(monkeypatch):
  """Imports as a script in experiments/ does; removes its flags and modules."""
  monkeypatch.syspath_prepend(FOLDER)
  names = set(flags.FLAGS)
  yield
  for name in set(flags.FLAGS) - names:
    delattr(flags.FLAGS, name)
  # Libraries stay, as importing them again takes longer than most tests.
  for name, module in list(sys.modules.items()):
    file = getattr(module, "__file__", None)
    if file and pathlib.Path(file).is_relative_to(FOLDER):
      del sys.modules[name]
