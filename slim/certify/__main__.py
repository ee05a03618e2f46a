"""Certify the gradient of a config: `python -m slim.certify --config=…`.

Prints a table of checks and writes it to `--output=certificate.json`. If the
gradient over chunks is not that of the whole sequence, the exit code is 1 and
one line names the cause. All is computed on one device, without `config.mesh`.
With `--target=cuda:h100` the memory is that on this device, which need not be
there. No data is read.
"""

from absl import flags

from slim import command_line
from slim.certify.from_config import certify_config
from slim.config import setting_flags
from slim.targets.target_flags import define_target


def main(argv: list[str] | None = None) -> None:
  """Runs the command line.

  Args:
    argv: Program name and arguments. Default: `sys.argv`.
  """
  config = setting_flags.define_config()
  output = flags.DEFINE_string(
    "output", None, "Write the checks to this new JSON file."
  )

  target = define_target()

  def check() -> None:
    path = output.value
    if path is not None:
      path = command_line.check_output(path)
    if config.value.mesh not in (None, "data=1"):
      print("on one device: the gradient of config.mesh is not checked")
    certificate = certify_config(config.value, target())
    print(certificate)
    if path is not None:
      certificate.save(path, "--output")
    if not certificate.ok:
      raise ValueError(certificate.describe_failure())
    print("passed: the chunked gradient is that of the whole sequence")

  command_line.run(check, argv, choose_device=target)


if __name__ == "__main__":
  main()
