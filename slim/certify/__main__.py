"""Certify the gradient of a config: `python -m slim.certify --config=…`.

Prints a table of checks and writes it to `--output=certificate.json`. If the
gradient over chunks is not that of the whole sequence, the exit code is 1 and
one line names the cause. No data is read.
"""

from absl import flags

from slim import command_line
from slim.certify.from_config import certify_config
from slim.config import setting_flags


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
      path = command_line.check_output(path)
    certificate = certify_config(config.value)
    print(certificate)
    if path is not None:
      with command_line.writing_output(path):
        certificate.save(path)
    if not certificate.ok:
      raise ValueError(certificate.describe_failure())
    print("passed: the chunked gradient is that of the whole sequence")

  command_line.run(check, argv)


if __name__ == "__main__":
  main()
