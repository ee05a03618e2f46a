"""A GPU: what slim.memory predicts against what is used, and times.

For eight minutes on a machine with a GPU of the target. First, each gradient
runs in a process of its own, and the peak of the device is compared with that
of `--target`. There is no comparison if XLA has used more before, to choose
among kernels. Then attention is timed beside that of XLA and cuDNN, and the
gradients of the SLiM paper's configurations II to IV beside the plain one.

  python experiments/on_gpu.py [--quick] [--target=cuda:h100]
"""

import functools
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
from absl import flags
from arguments import define_quick
from baselines import gradient_of
from configurations import make_batch, make_model, random_arrays
from measurements import median_seconds
from record import print_table, save

from slim import command_line
from slim.kernels import chunked_softmax_attention
from slim.targets import Target
from slim.training.gradients import COMPILER_OPTIONS, make_value_and_grad

_TARGET = flags.DEFINE_string("target", "cuda:h100", "What the GPU is.")
_QUICK = define_quick("Small models on whatever device there is: a minute.")
_GRADIENTS: dict[str, dict[str, Any]] = {
  "full": {"method": "full"},
  "remat": {"method": "remat"},
  "store 512": {"method": "slim", "policy": "store", "chunk_size": 512},
  "rewind 512": {"method": "slim", "policy": "rewind", "chunk_size": 512},
}
# Gradient and tokens.
_CASES = (
  ("full", 4096),
  ("remat", 4096),
  ("store 512", 4096),
  ("rewind 512", 4096),
  ("rewind 512", 65_536),
)
_CASE = flags.DEFINE_integer(
  "case",
  None,
  "Run one gradient, and print its memory; see _CASES.",
  lower_bound=0,
  upper_bound=len(_CASES) - 1,
)
_MIB = 2**20
_REPETITIONS = 16  # Of a short program between two looks at the clock.


def main() -> None:
  """Measures, prints and saves; or runs one case."""
  jax.config.update("jax_default_matmul_precision", "highest")  # As training.
  if _CASE.value is not None:
    run_case(*_CASES[_CASE.value])
    return
  if not _QUICK.value and jax.default_backend() != "gpu":
    raise ValueError(
      f"a GPU is needed, got {jax.devices()[0].device_kind}: pass --quick to "
      "try the script without"
    )
  rows = [
    *map(check_prediction, range(2 if _QUICK.value else len(_CASES))),
    *time_attention(),
    *time_gradients(),
  ]
  print_table(rows)
  save("on_gpu", rows, quick=_QUICK.value)


def make_gradient(
  name: str, configuration: str, tokens: int
) -> tuple[Callable[..., Any], tuple[Any, ...]]:
  """Makes a gradient of a configuration, and its arguments."""
  quick = _QUICK.value
  model = make_model(configuration, quick)
  params = jax.jit(model.init)(jax.random.key(0))
  batch = make_batch(tokens)
  return make_value_and_grad(model, **_GRADIENTS[name]), (params, batch)


def run_case(name: str, tokens: int) -> None:
  """Runs a gradient, and prints the memory it was compiled for and used."""
  fn, args = make_gradient(name, "III", tokens)
  compiled = jax.jit(fn).lower(*args).compile(COMPILER_OPTIONS)
  jax.block_until_ready(args)
  device = jax.devices()[0]
  before = device.memory_stats() or {}
  outputs = jax.block_until_ready(compiled(*args))
  after = device.memory_stats() or {}
  peak = after.get("peak_bytes_in_use")
  used = None
  # Without a new peak, the largest use was before: by XLA's choice of kernels.
  if peak is not None and peak > before["peak_bytes_in_use"]:
    used = peak - before["bytes_in_use"]
    used -= sum(x.nbytes for x in jax.tree.leaves(outputs))
  found = {"compiled": Target().temporary_bytes(compiled), "used": used}
  print(json.dumps(found))


def check_prediction(case: int) -> dict[str, Any]:
  """Compares the predicted temporary memory with that of a fresh process."""
  name, tokens = _CASES[case]
  command = [sys.executable, *sys.argv, f"--case={case}"]
  done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
  if done.returncode:
    raise ValueError(f"{name} over {tokens:,} tokens failed, see above")
  found = json.loads(done.stdout.splitlines()[-1])
  fn, args = make_gradient(name, "III", tokens)
  target = Target("cpu" if _QUICK.value else _TARGET.value)
  predicted = target.temporary_bytes(
    target.compile(fn, *args, options=COMPILER_OPTIONS)
  )
  used = found["used"]
  return _row(
    "prediction",
    name,
    tokens,
    predicted_MiB=predicted / _MIB,
    compiled_MiB=found["compiled"] / _MIB,
    used_MiB=None if used is None else used / _MIB,
  )


def time_attention() -> Iterator[dict[str, Any]]:
  """Times causal softmax attention, 8 heads of 64 in bfloat16."""
  for tokens in (256,) if _QUICK.value else (4096, 16_384):
    shape = (1, tokens, 8, 64)
    arrays = [x.astype(jnp.bfloat16) for x in random_arrays(4, shape)]
    attends = {"slim": chunked_softmax_attention}
    for name in ("xla", "cudnn"):
      if name == "xla" or jax.default_backend() == "gpu":
        attends[f"jax.nn, {name}"] = functools.partial(
          jax.nn.dot_product_attention, implementation=name
        )
    for passes, count in (("forward", 3), ("gradient", 4)):
      programs = {}
      for name, attend in attends.items():
        run = functools.partial(attend, is_causal=True)
        run = run if passes == "forward" else gradient_of(run)
        once = functools.partial(jax.jit(run), *arrays[:count])
        programs[name] = functools.partial(_repeat, once)
      for name, seconds in median_seconds(programs, 9).items():
        seconds /= _REPETITIONS
        yield _row(f"attention, {passes}", name, tokens, seconds=seconds)


def _repeat(once):
  """Calls a program again before its results are there, as a GPU waits else."""
  for _ in range(_REPETITIONS - 1):
    once()
  return once()


def time_gradients() -> Iterator[dict[str, Any]]:
  """Times the gradients of configurations II to IV."""
  for configuration in ("II",) if _QUICK.value else ("II", "III", "IV"):
    tokens = {"II": 1024, "III": 4096, "IV": 16_384}[configuration]
    programs = {}
    for name in _GRADIENTS:
      fn, args = make_gradient(name, configuration, tokens)
      compiled = jax.jit(fn).lower(*args).compile(COMPILER_OPTIONS)
      programs[name] = functools.partial(compiled, *args)
    for name, seconds in median_seconds(programs, 5).items():
      yield _row(
        f"configuration {configuration}", name, tokens, seconds=seconds
      )


def _row(part, what, tokens, **values):
  """Makes a row; what was not measured is None."""
  names = ("predicted_MiB", "compiled_MiB", "used_MiB", "seconds")
  row = {"part": part, "what": what, "tokens": tokens}
  return row | {name: values.get(name) for name in names}


def leave_memory() -> None:
  """Lets this process and those it starts share the memory of the GPU.

  Call it before JAX looks for devices, or JAX takes most of the memory.
  """
  os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"


if __name__ == "__main__":
  command_line.run(main, choose_device=leave_memory)
