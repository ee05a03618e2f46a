"""Compiled programs are kept for the next run, in the user's cache folder."""

import hashlib
import logging
import os
import pathlib
import platform
import re
import warnings

import jax
from absl import flags

from slim.files import check_folder, local_path

_LOG = logging.getLogger("slim.runs.compilation_cache")
_NAME = "jax_compilation_cache_dir"
flags.disclaim_key_flags()  # `--help` lists it as the command's own.
# How JAX warns that a program cannot be kept, or is damaged.
_WARNING = re.compile(
  "Error (?:reading|writing) persistent compilation cache entry for '(.*?)': "
  "(.*)"
)


def define_cache(
  flag_values: flags.FlagValues = flags.FLAGS,
) -> flags.FlagHolder[str | None]:
  """Defines `--compilation_cache`; pass its value to `use_cache`."""
  return flags.DEFINE_string(
    "compilation_cache",
    default_folder(),
    "Folder of JAX's persistent compilation cache; none: no cache.",
    flag_values=flag_values,
  )


def default_folder() -> str:
  """Returns the folder for programs of this machine and this version of JAX.

  A program for a CPU may use instructions that another CPU lacks, and home
  folders are shared by the machines of a cluster.

  Returns:
    A folder in $XDG_CACHE_HOME or ~/.cache.
  """
  cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
  try:
    lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    flags = next(line for line in lines if line.startswith(("flags", "Feat")))
  except (OSError, StopIteration):  # Not Linux.
    flags = platform.processor()
  cpu = hashlib.sha256(f"{platform.machine()} {flags}".encode()).hexdigest()
  return os.path.join(cache, "slim", f"jax-{jax.__version__}-{cpu[:8]}")


def use_cache(folder: str | None) -> None:
  """Keeps compiled programs in a folder.

  A program that cannot be kept, or is damaged, is removed: a full disk may
  leave a part of it, which JAX would neither read nor replace. The setting of
  JAX itself, such as JAX_COMPILATION_CACHE_DIR, comes first.

  Args:
    folder: The folder, or "none".

  Raises:
    ValueError: If it is no path on this machine.
  """
  is_set = jax.config.values[_NAME] is not None
  if folder not in (None, "none") and not is_set:
    try:
      path = local_path("--compilation_cache", folder or "")
    except ValueError as error:
      if folder != default_folder():
        raise
      # Nobody has asked for this folder, and the user may have no home.
      _LOG.info("compiled programs are not kept: %s", error)
      return
    try:
      check_folder("--compilation_cache", path)
    except ValueError as error:  # JAX would warn for each program.
      _LOG.info("compiled programs are not kept: %s", error)
    else:
      jax.config.update(_NAME, path)
      _forget_damaged(pathlib.Path(path))


def _forget_damaged(folder):
  """Removes programs that JAX warns about, and logs it in one line."""
  show = warnings.showwarning

  def show_or_forget(message, *args, **kwargs):
    found = _WARNING.match(str(message))
    if not found:
      show(message, *args, **kwargs)
      return
    program, reason = found.groups()
    for path in folder.glob(f"{program}-*"):
      path.unlink(missing_ok=True)
    _LOG.info("the compiled program %s is not kept: %s", program, reason)

  warnings.showwarning = show_or_forget
