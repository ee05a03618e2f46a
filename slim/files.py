"""Files that are written: never over others, and refused before long work."""

import os


def check_new_file(name: str, path: str) -> None:
  """Refuses a file that exists, or whose folder does not.

  Args:
    name: Of the argument, for the error.
    path: The file.

  Raises:
    ValueError: If it cannot become a new file.
  """
  if os.path.exists(path):
    raise ValueError(
      f"{name} must be a new file, and {path} exists: choose another name, or "
      "remove it"
    )
  if not os.path.isdir(os.path.dirname(path) or "."):
    raise ValueError(
      f"{name}: cannot write {path}: its folder does not exist: create it, or "
      "choose another"
    )
