"""Runs the implementations of one module, as peers_libraries.py asks for them.

  python worker.py MODULE

Each line of stdin is a request in JSON, and each line of stdout its answer,
{"error": …} if something fails:

  {"load": name, "settings": {…}, "inputs": FILE}  Makes an implementation with
      the arrays of an .npz file. The answer has the versions of packages.
  {"run": [name, pass]}  Runs "forward" or "gradient". With "outputs": FILE, it
      also writes the results, and answers with the peak of memory in MiB.

The module has PACKAGES, their names, and `load(name, settings, inputs)`, which
returns the functions of both passes. They return lists of arrays. This file
needs NumPy and Linux only, as it runs in the environments of other libraries.
"""

import ctypes
import gc
import importlib
import importlib.metadata
import json
import os
import pathlib
import resource
import sys
import time

import numpy as np

MEMORY_BYTES = 12 * 2**30  # More than that must fail, or Linux ends something.
_STATUS = pathlib.Path("/proc/self/status")


def main() -> None:
  """Answers requests until stdin ends."""
  resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
  answers = os.fdopen(os.dup(1), "w")
  os.dup2(2, 1)  # Some libraries print when they are imported.
  passes = {}
  for line in sys.stdin:
    try:
      answer = answer_to(json.loads(line), passes)
    except (Exception, SystemExit) as error:  # Whatever a library raises.
      words = " ".join(str(error).split())
      answer = {"error": f"{type(error).__name__}: {words}"[:200]}
    print(json.dumps(answer), file=answers, flush=True)


def answer_to(request, passes):
  """Does what a request says and returns the answer."""
  if "load" in request:
    module = importlib.import_module(sys.argv[1])
    name, inputs = request["load"], dict(np.load(request["inputs"]))
    passes[name] = module.load(name, request["settings"], inputs)
    versions = [f"{x} {importlib.metadata.version(x)}" for x in module.PACKAGES]
    return {"versions": ", ".join(versions)}
  name, direction = request["run"]
  run = passes[name][direction]
  if "outputs" not in request:
    run()
    return {}
  # The first call also makes what a library keeps. Its results stay, or those
  # of the second one would take their place and not be counted.
  first = run()
  gc.collect()
  time.sleep(0.2)  # JAX frees buffers after it has answered.
  ctypes.CDLL("libc.so.6").malloc_trim(0)
  pathlib.Path("/proc/self/clear_refs").write_text("5")  # Forgets the peak.
  before = size_in_kib("VmRSS")
  outputs = run()
  peak = size_in_kib("VmHWM") - before
  del first
  np.savez(request["outputs"], *map(np.asarray, outputs))
  return {"peak_MiB": peak / 1024}


def size_in_kib(name):
  """Returns a size of this process: its memory, or the most that it was."""
  for line in _STATUS.read_text().splitlines():
    if line.startswith(name):
      return int(line.split()[1])
  raise ValueError(f"{_STATUS} has no line {name}")


if __name__ == "__main__":
  main()
