"""Certify the gradient of a config: `python -m slim.certify --config=…`.

Prints a table of checks and writes it to `--output=certificate.json`. If the
gradient over chunks is not that of the whole sequence, the exit code is 1 and
one line names the cause. No data is read.
"""

from absl import flags

from slim import command_line
from slim.certify.from_config import certify_config
from slim.config import setting_flags
from slim.files import check_new_file, local_path, writing


def main(argv: list[str] | None = None) -> None:
  """Runs the command line.

  Args:
    argv: Program name and arguments. Default: `sys.argv`.
  """
  config = setting_flags.define_config()
  output = flags.DEFINE_string(
    "output", None, "Write the checks to this new JSON file."
  )

  def check() -> None:
    path = output.value
    if path is not None:
      path = local_path("--output", path)
      check_new_file("--output", path)
    certificate = certify_config(config.value)
    print(certificate)
    if path is not None:
      with writing(path, "--output"):
        certificate.save(path)
    if not certificate.ok:
      raise ValueError(certificate.describe_failure())

  command_line.run(check, argv)


if __name__ == "__main__":
  main()
