"""Certifies a config: `python -m slim.certify --config=…`.

Prints what was checked, writes it to `--output=certificate.json`, and ends with
exit code 1 and one line if the gradient in chunks is not that of the whole
sequence. No data is read.
"""

import pathlib

from absl import flags
from ml_collections import config_flags

from slim import command_line
from slim.certify.models import certify_config


def main() -> None:
  """Runs the command line."""
  config = config_flags.DEFINE_config_file("config", None, "File in configs/.")
  output = flags.DEFINE_string(
    "output", None, "The checks as JSON, a new file."
  )
  flags.mark_flags_as_required(["config"])

  def check():
    path = output.value
    if path is not None:
      _check_output(pathlib.Path(path))
    certificate = certify_config(config.value)
    print(certificate)
    if path is not None:
      certificate.save(path)
    if not certificate.ok:
      raise ValueError(certificate.describe_failure())

  command_line.run(check)


def _check_output(path: pathlib.Path) -> None:
  """Refuses, before long work, a file that cannot be written."""
  if path.exists():
    raise ValueError(
      f"--output must be a new file, and {path} exists: choose another name, "
      "or remove it"
    )
  if not path.parent.is_dir():
    raise ValueError(
      f"--output: cannot write {path}: its folder does not exist: create it, "
      "or choose another"
    )


if __name__ == "__main__":
  main()
