"""Certifies a config: `python -m slim.certify --config=…`.

Prints what was checked, writes it to `--output=certificate.json`, and ends with
exit code 1 and one line if the gradient in chunks is not that of the whole
sequence. No data is read.
"""

from absl import flags
from ml_collections import config_flags

from slim import command_line
from slim.certify.models import certify_config
from slim.files import check_new_file


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
      check_new_file("--output", path)
    certificate = certify_config(config.value)
    print(certificate)
    if path is not None:
      certificate.save(path)
    if not certificate.ok:
      raise ValueError(certificate.describe_failure())

  command_line.run(check)


if __name__ == "__main__":
  main()
