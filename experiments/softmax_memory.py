"""Memory and time of softmax attention against the length.

Tables 2 and 3 of Rabe & Staats: one head of width 64, float32, batch 1, the
forward pass and the gradient of q, k and v. Overhead is the temporary memory
beyond inputs and outputs as XLA assigns it, compiled only, so that it needs no
memory itself. Time is the median over rounds in which every implementation has
its turn, 3 at 16,384 tokens, more below and one above; where the quadratic ones
would need too much memory, or a call takes minutes, there is none.

  python experiments/softmax_memory.py [--quick]
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from arguments import define_count
from record import RESULTS, print_table, save
from timing import median_seconds

from slim import command_line
from slim.kernels import chunked_softmax_attention, softmax_attention

_QUICK = flags.DEFINE_bool("quick", False, "Lengths up to 4,096: a minute.")
_ROUNDS = define_count("rounds", 3, "At 16,384 tokens.")
_LENGTHS = tuple(2**i for i in range(8, 21, 2))
_MAX_TIMED = {"quadratic": 2**14, "blocks": 2**16}


def implementations(is_causal: bool) -> dict[str, Callable[..., jax.Array]]:
  """The attentions that are compared, as functions of q, k and v.

  Args:
    is_causal: Whether a query sees no later keys.

  Returns:
    By name. "paper" is the algorithm of Rabe & Staats with its block sizes; it
    skips no blocks.
  """

  def of(attend, **settings):
    return functools.partial(attend, is_causal=is_causal, **settings)

  return {
    "reference": of(softmax_attention),
    "jax.nn": of(jax.nn.dot_product_attention, implementation="xla"),
    "paper": of(
      chunked_softmax_attention,
      q_block_size=1024,
      k_block_size=4096,
      backward="remat",
    ),
    "slim": of(chunked_softmax_attention),
  }


def main() -> None:
  """Compiles, times, prints, draws and saves."""
  rows = []
  for length in _LENGTHS[:3] if _QUICK.value else _LENGTHS:
    for is_causal in (False, True):
      for passes in ("forward", "gradient"):
        rows += measure(length, is_causal, passes)
    print_table(rows[-16:])
  name = "softmax_memory_quick" if _QUICK.value else "softmax_memory"
  save(name, rows)
  draw(rows, RESULTS / f"{name}.svg")


def measure(length: int, is_causal: bool, passes: str) -> list[dict[str, Any]]:
  """Measures all implementations at one length."""
  shape = jax.ShapeDtypeStruct((1, length, 1, 64), jnp.float32)
  count = 3 if passes == "forward" else 4
  random = np.random.default_rng(0)
  args = [
    jnp.asarray(random.normal(size=shape.shape), jnp.float32)
    for _ in range(count)
  ]
  rows, programs = [], []
  names = implementations(is_causal)
  for name, attend in names.items():
    run = attend if passes == "forward" else gradient_of(attend)
    compiled = jax.jit(run).lower(*[shape] * count).compile()
    memory = compiled.memory_analysis()
    rows.append(
      {
        "tokens": length,
        "is_causal": is_causal,
        "pass": passes,
        "implementation": name,
        "overhead_MiB": memory.temp_size_in_bytes / 2**20,
        "seconds": None,
        "over_jax": None,
        "over_paper": None,
      }
    )
    kind = "quadratic" if name in ("reference", "jax.nn") else "blocks"
    is_timed = length <= _MAX_TIMED[kind]
    programs.append(functools.partial(compiled, *args) if is_timed else None)
  rounds = 1
  if length <= _MAX_TIMED["quadratic"]:  # Of short calls more.
    rounds = min(31, _ROUNDS.value * 2**14 // length)
  seconds = dict(zip(names, median_seconds(programs, rounds), strict=True))
  for row in rows:
    row["seconds"] = found = seconds[row["implementation"]]
    for column, other in (("over_jax", "jax.nn"), ("over_paper", "paper")):
      if found and seconds[other]:
        row[column] = found / seconds[other]
  return rows


def gradient_of(attend: Callable[..., jax.Array]) -> Callable[..., Any]:
  """The gradient of q, k and v for a cotangent of y, which comes last."""

  def run(q, k, v, y_ct):
    return jax.vjp(attend, q, k, v)[1](y_ct)

  return run


def draw(rows: list[dict[str, Any]], path: Any) -> None:
  """Draws overhead and time against the length, forward and gradient."""
  import matplotlib

  matplotlib.use("Agg")
  from matplotlib import pyplot

  figure, axes = pyplot.subplots(2, 2, figsize=(8, 6), sharex=True)
  for column, passes in zip(axes.T, ("forward", "gradient"), strict=True):
    for axis, key in zip(column, ("overhead_MiB", "seconds"), strict=True):
      for name in dict.fromkeys(row["implementation"] for row in rows):
        points = [
          (row["tokens"], row[key])
          for row in rows
          if (row["implementation"], row["pass"]) == (name, passes)
          and not row["is_causal"]
          and row[key] is not None
        ]
        axis.plot(*zip(*points, strict=True), "o-", markersize=3, label=name)
      axis.set_xscale("log", base=2)
      axis.set_yscale("log")
    column[0].set_title(passes)
    column[1].set_xlabel("tokens")
  axes[0, 0].set_ylabel("overhead, MiB")
  axes[1, 0].set_ylabel("seconds")
  axes[0, 0].legend(fontsize="x-small")
  figure.tight_layout()
  figure.savefig(path, metadata={"Date": None})


if __name__ == "__main__":
  command_line.run(main)
