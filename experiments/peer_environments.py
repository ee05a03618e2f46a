"""Environments of other libraries, and processes that run in them.

The files of `experiments/peers` run there, or in slim's own environment.
"""

import json
import pathlib
import shutil
import subprocess
import sys
from typing import Any, Self

_FOLDER = pathlib.Path(__file__).parent / "peers"
_NEWEST = ("python3.12", "python3.13", "python3.14")
# The environments, by the module of experiments/peers that runs in them.
_REQUIREMENTS = {
  "in_torch": "requirements.txt",
  "in_jla": "requirements_jla.txt",
}


class PeerError(Exception):
  """A library cannot be installed or does not run; the message says why."""


def make_environments(
  workdir: pathlib.Path, newer: str | None
) -> dict[str, pathlib.Path]:
  """Makes the environments of all libraries.

  Args:
    workdir: Where they are or will be.
    newer: A newer Python, or None to look for one.

  Returns:
    Their interpreters.

  Raises:
    ValueError: If one cannot be made.
  """
  pythons = {}
  for module, requirements in _REQUIREMENTS.items():
    python = sys.executable
    if module == "in_jla":
      python = newer or find_newer_python()
      if python is None:
        raise ValueError(
          "--newer_python must be Python 3.12 or newer for "
          "jax-linear-attention, and none is on the PATH"
        )
    folder = workdir / module.removeprefix("in_")
    try:
      pythons[module] = make_environment(folder, python, requirements)
    except PeerError as error:
      raise ValueError(f"{requirements} {error}: try again") from error
  return pythons


def find_newer_python() -> str | None:
  """Finds an interpreter of Python 3.12 or newer."""
  program = "import sys; sys.exit(sys.version_info < (3, 12))"
  for name in (sys.executable, *_NEWEST):
    if shutil.which(name):
      done = subprocess.run([name, "-c", program], capture_output=True)
      if not done.returncode:
        return name
  return None


def make_environment(
  folder: pathlib.Path, python: str, requirements: str
) -> pathlib.Path:
  """Makes an environment, or takes the one that was made before.

  Args:
    folder: Where it is or will be.
    python: The interpreter.
    requirements: A file of `experiments/peers`. If it has changed, the
      environment is made again.

  Returns:
    The interpreter of the environment.

  Raises:
    PeerError: If pip fails.
  """
  wanted = (_FOLDER / requirements).read_text()
  made_of, interpreter = folder / requirements, folder / "bin" / "python"
  if made_of.exists() and made_of.read_text() == wanted:
    return interpreter
  print(f"installing {requirements} into {folder}, for minutes")
  install = [interpreter, "-m", "pip", "install", "--quiet", "-r"]
  for command in (
    [python, "-m", "venv", "--clear", folder],
    [*install, _FOLDER / requirements],
  ):
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
      lines = (done.stderr or done.stdout).strip().splitlines()
      raise PeerError(f"cannot be installed: {lines[-1]}"[:200])
  made_of.write_text(wanted)
  return interpreter


class Worker:
  """A process of `worker.py`, as a context that ends it."""

  def __init__(self, python: str | pathlib.Path, module: str):
    self._process = subprocess.Popen(
      [python, _FOLDER / "worker.py", module],
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      stderr=subprocess.DEVNULL,
      text=True,
    )

  def __enter__(self) -> Self:
    return self

  def __exit__(self, *error) -> None:
    self._process.kill()
    self._process.communicate()

  def ask(self, **request: Any) -> dict[str, Any]:
    """Sends a request and waits for its answer.

    Args:
      **request: As `worker.py` describes it.

    Returns:
      The answer.

    Raises:
      PeerError: If it fails, or the process has ended.
    """
    try:
      print(json.dumps(request), file=self._process.stdin, flush=True)
      line = self._process.stdout.readline()
    except BrokenPipeError:
      line = ""
    if not line:
      raise PeerError(f"its process ended with code {self._process.wait()}")
    answer = json.loads(line)
    if "error" in answer:
      raise PeerError(answer["error"])
    return answer
