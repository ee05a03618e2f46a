"""Memory and time of hybrids: softmax attention inside the loop over chunks.

Gradients of small language models (width 256, 4 heads of 64, batch 1, float32):

- hybrid: a layer of linear and one of softmax attention;
- Transformer: two layers of softmax attention;
- grouped: the same, whose heads share one head of keys and values;
- GDN: three layers of gated DeltaNet, of width 512, with `slim` alone.

Methods: full, remat (layer by layer), `lax.scan(jax.checkpoint)`, whose loop
carries the caches, and `slim` with C = 512. Softmax attention is computed block
by block in all of them. Activations are the temporary memory as XLA assigns it.
`buffers` is the memory that each further token adds, in G · K float32 numbers.
Time is measured at 8,192 tokens.

  python experiments/hybrids.py [--quick]
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
from arguments import define_count, define_quick
from baselines import scan_checkpoint_value_and_grad
from configurations import abstract_batch, make_batch
from measurements import median_seconds, memory_columns
from record import measure_in_stretches, print_table, save

from slim import command_line
from slim.memory.report import report_of
from slim.models import create_model
from slim.training.gradients import COMPILER_OPTIONS, make_value_and_grad
from slim.types import LanguageModel

_QUICK = define_quick("The hybrid and GDN, few tokens: two minutes.")
_ROUNDS = define_count("rounds", 5, "Timings of each program.")
_CHUNK_SIZE = 512
_LENGTHS = (4096, 16384, 65536)
_GDN_LENGTHS = (65536, 1048576)
_TIMED = 8192


class Case(NamedTuple):
  """A model at one length."""

  model: str
  tokens: int


_MODELS: dict[str, dict[str, Any]] = {
  "hybrid": dict(attention="linear,chunked_softmax", num_layers=2),
  "Transformer": dict(attention="chunked_softmax", num_layers=2),
  "grouped": dict(attention="chunked_softmax", num_layers=2, num_kv_heads=1),
  "GDN": dict(attention="gdn", num_layers=3, width=512, num_heads=8),
}


def main() -> None:
  """Compiles, times, prints and saves."""
  quick = _QUICK.value
  lengths = (1024, 4096) if quick else _LENGTHS
  others = ("hybrid",) if quick else ("hybrid", "Transformer", "grouped")
  cases = [Case(name, n) for name in others for n in lengths]
  cases += [Case("GDN", n) for n in (lengths[-1:] if quick else _GDN_LENGTHS)]
  rows = measure_in_stretches("hybrids", cases, measure, quick=quick)
  _add_buffers(rows)
  times = measure_times(others[:2], 1024 if quick else _TIMED)
  columns = dict.fromkeys(key for row in (*rows, *times) for key in row)
  rows = [dict.fromkeys(columns) | row for row in (*rows, *times)]
  print_table(rows)
  save(
    "hybrids", rows, quick=quick, chunk_size=_CHUNK_SIZE, rounds=_ROUNDS.value
  )


def make_model(name: str) -> LanguageModel:
  """Creates a model by its name."""
  settings = dict(width=256, num_heads=4, norm="pre") | _MODELS[name]
  return create_model(vocab_size=256, **settings)


def methods_of(
  name: str, model: LanguageModel
) -> dict[str, Callable[..., Any]]:
  """Makes the gradients to compare; those of GDN are for long sequences."""
  slim = functools.partial(
    make_value_and_grad, model, method="slim", chunk_size=_CHUNK_SIZE
  )
  if name == "GDN":
    return {
      f"slim, {policy}": slim(policy=policy) for policy in ("store", "sqrt")
    }
  return {
    "full": make_value_and_grad(model, method="full"),
    "remat": make_value_and_grad(model, method="remat"),
    "lax.scan(jax.checkpoint)": scan_checkpoint_value_and_grad(
      model, _CHUNK_SIZE
    ),
    "slim, rewind": slim(policy="rewind"),
  }


def measure(case: Case) -> list[dict[str, Any]]:
  """Compiles all methods for one model and length; returns their rows."""
  model = make_model(case.model)
  shapes = (
    jax.eval_shape(model.init, jax.random.key(0)),
    abstract_batch(case.tokens),
  )
  rows = []
  for name, value_and_grad in methods_of(case.model, model).items():
    compiled = compile_gradient(name, value_and_grad, *shapes)
    rows.append(
      {"part": "memory", **case._asdict(), "method": name}
      | memory_columns(report_of(compiled))
    )
  return rows


def compile_gradient(
  method: str, value_and_grad: Callable[..., Any], *args: Any
) -> jax.stages.Compiled:
  """Compiles a gradient as training does; `remat` must not be undone."""
  options = dict(COMPILER_OPTIONS)
  if method == "remat" and jax.__version_info__ < (0, 11, 1):
    options["xla_disable_hlo_passes"] = "cse_barrier_expander"
  gradient = jax.jit(value_and_grad, compiler_options=options)
  return gradient.lower(*args).compile()


def measure_times(names: Sequence[str], tokens: int) -> list[dict[str, Any]]:
  """Times models, each with all methods in turns."""
  rows = []
  for name in names:
    model = make_model(name)
    args = jax.jit(model.init)(jax.random.key(0)), make_batch(tokens)
    calls = {
      method: functools.partial(
        compile_gradient(method, gradient, *args), *args
      )
      for method, gradient in methods_of(name, model).items()
    }
    seconds = median_seconds(calls, _ROUNDS.value)
    rows += [
      {
        "part": "time",
        "model": name,
        "tokens": tokens,
        "method": method,
        "seconds": seconds[method],
        "over_full": seconds[method] / seconds["full"],
      }
      for method in calls
    ]
  return rows


def _add_buffers(rows):
  """Adds how memory grows, in arrays of one number a token and channel."""
  found = {(x["model"], x["method"], x["tokens"]): x for x in rows}
  for (model, method, tokens), row in found.items():
    shorter = [x for x in found if x[:2] == (model, method) and x[2] < tokens]
    row["buffers"] = None
    if shorter and model != "GDN":
      before = found[max(shorter, key=lambda x: x[2])]
      width = 64 if model == "grouped" else 256
      grown = row["activation_MiB"] - before["activation_MiB"]
      numbers = (tokens - before["tokens"]) * width
      row["buffers"] = grown * 2**20 / (4 * numbers)


if __name__ == "__main__":
  command_line.run(main)
