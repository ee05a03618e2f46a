"""Memory and time of softmax attention against the length.

Tables 2 and 3 of Rabe & Staats: one head of width 64, float32, batch 1, the
forward pass and the gradient of q, k and v. Overhead is the temporary memory
beyond inputs and outputs as XLA assigns it; those programs are compiled and not
run. Time is the median over rounds in which every implementation has its turn:
3 rounds at 16,384 tokens, more below and one above. There is no time where a
quadratic implementation would need too much memory, or a call would take
minutes.

  python experiments/softmax_memory.py [--quick]
"""

import functools
import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from arguments import define_count, define_quick
from baselines import gradient_of
from configurations import random_arrays
from figures import (
  line_style,
  new_figure,
  set_log_sizes,
  set_log_ticks,
  share_legend,
)
from measurements import median_seconds
from record import (
  measure_in_stretches,
  print_table,
  read,
  results_path,
  save,
)

from slim import command_line
from slim.kernels import chunked_softmax_attention, softmax_attention

_QUICK = define_quick("1,024 tokens, and 16,384 without times: a minute.")
_ROUNDS = define_count("rounds", 3, "Timings at 16,384 tokens.")
_LENGTHS = tuple(2**i for i in range(8, 21, 2))
_MAX_TIMED = {"quadratic": 2**14, "blocks": 2**16}


def implementations(is_causal: bool) -> dict[str, Callable[..., jax.Array]]:
  """Returns the attentions to compare, as functions of q, k and v.

  Args:
    is_causal: Whether a query sees no later keys.

  Returns:
    The functions by name. "paper" is the algorithm of Rabe & Staats with its
    block sizes; it skips no blocks.
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
  """Compiles, times, prints, saves and draws."""
  quick = _QUICK.value
  cases = itertools.product(
    (1024, 16384) if quick else _LENGTHS,
    (False, True),
    ("forward", "gradient"),
  )
  rows = measure_in_stretches("softmax_memory", cases, measure, quick=quick)
  print_table(rows)
  save("softmax_memory", rows, quick=quick)
  draw_results(quick)


def measure(case: tuple[int, bool, str]) -> list[dict[str, Any]]:
  """Measures all implementations at one length."""
  length, is_causal, passes = case
  shape = jax.ShapeDtypeStruct((1, length, 1, 64), jnp.float32)
  count = 3 if passes == "forward" else 4
  args = random_arrays(count, shape.shape)
  rows, programs = [], {}
  for name, attend in implementations(is_causal).items():
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
    longest = 2**10 if _QUICK.value else _MAX_TIMED[kind]
    is_timed = length <= longest
    programs[name] = functools.partial(compiled, *args) if is_timed else None
  rounds = 1
  if length <= _MAX_TIMED["quadratic"]:  # Short calls get more rounds.
    rounds = min(31, _ROUNDS.value * 2**14 // length)
  seconds = median_seconds(programs, rounds)
  for row in rows:
    row["seconds"] = found = seconds[row["implementation"]]
    for column, other in (("over_jax", "jax.nn"), ("over_paper", "paper")):
      if found and seconds[other]:
        row[column] = found / seconds[other]
  return rows


def draw_results(quick: bool = False) -> None:
  """Draws the stored results."""
  name = "softmax_memory"
  draw(read([name], quick)[name]["rows"], results_path(name, "svg", quick))


def draw(rows: list[dict[str, Any]], path: Any) -> None:
  """Draws overhead and time against the length, without causal masks."""
  names = dict.fromkeys(row["implementation"] for row in rows)
  panels = {"overhead_MiB": "overhead", "over_jax": "time / jax.nn"}
  with new_figure(path, 2, 2, size=(9, 6.5), sharex="row", sharey="row") as (
    figure,
    axes,
  ):
    for column, passes in zip(axes.T, ("forward", "gradient"), strict=True):
      for axis, (key, label) in zip(column, panels.items(), strict=True):
        for index, name in enumerate(names):
          points = [
            (row["tokens"], row[key])
            for row in rows
            if (row["implementation"], row["pass"]) == (name, passes)
            and not row["is_causal"]
            and row[key] is not None
          ]
          # Where lines lie on each other, each is thinner than the one below.
          axis.plot(
            *zip(*points, strict=True),
            label=name,
            linewidth=2.6 - 0.4 * index,
            **line_style(name),
          )
        lengths = {row["tokens"] for row in rows if row[key] is not None}
        set_log_ticks(axis, sorted(lengths)[:: 1 + len(lengths) // 5])
        axis.set_xlabel("tokens")
        if axis in axes[:, 0]:
          axis.set_ylabel(label)
      column[0].set_title(passes)
    axes[1, 0].set_ylim(bottom=0)
    set_log_sizes(axes[0, 0])
    share_legend(figure, columns=4)


if __name__ == "__main__":
  command_line.run(main)
