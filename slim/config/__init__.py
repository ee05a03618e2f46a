"""Every setting of an experiment: defaults, names and validation.

The parts of slim that use the settings declare them; `python -m slim.train
--helpfull` lists them with their descriptions.
"""

from slim.config import presets
from slim.config.defaults import base, list_declarations
from slim.config.names import (
  check_names,
  differences,
  flatten,
  list_data_paths,
  list_flags,
  unknown_setting,
  with_data_paths,
  without_data_paths,
)
from slim.config.validation import depends_on_num_steps, validate

__all__ = [
  "base",
  "check_names",
  "depends_on_num_steps",
  "differences",
  "flatten",
  "list_data_paths",
  "list_declarations",
  "list_flags",
  "presets",
  "unknown_setting",
  "validate",
  "with_data_paths",
  "without_data_paths",
]
