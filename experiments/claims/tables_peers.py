"""The tables of docs/where-we-lose.md."""

from claims.expressions import Read, select
from claims.tables import (
  markdown,
  mebibytes,
  pick,
  ratio,
  seconds,
  three_digits,
)

_METHODS = {
  "`lax.scan(jax.checkpoint)`": "lax.scan(jax.checkpoint)",
  "the same on two levels": "two-level lax.scan(jax.checkpoint)",
  "store": "slim, store",
  "sqrt": "slim, sqrt",
  "rewind": "slim, rewind",
}
_TIMED = {"chunk_size": 512}
# Variants of a library that only the file of results has.
_LEFT_OUT = ("PyTorch, memory-efficient",)


def peers_memory(read: Read) -> str:
  """Activations of all methods in MiB, by length."""
  record = read("peers")
  lengths = sorted({row["tokens"] for row in record["rows"]})
  cells = (
    pick(record, "activation_MiB", tokens=x, method="full") for x in lengths
  )
  rows = [["full", *map(mebibytes, cells)]]
  for chunk_size in (64, 512):
    for label, method in _METHODS.items():
      where = {"method": method, "chunk_size": chunk_size}
      cells = (
        pick(record, "activation_MiB", tokens=x, **where) for x in lengths
      )
      rows.append([f"{label}, C = {chunk_size}", *map(mebibytes, cells)])
  return markdown(["MiB", *(f"{x:,}" for x in lengths)], rows)


def peers_time(read: Read) -> str:
  """Time of all methods over that of full, and their distance to it."""
  record = read("peers")
  lengths = 4096, 16384
  full = [pick(record, "seconds", tokens=x, method="full") for x in lengths]
  rows = [["full", *map(seconds, full), ""]]
  for label, method in _METHODS.items():
    cells = [
      pick(record, "over_full", tokens=x, method=method, **_TIMED)
      for x in lengths
    ]
    errors = [
      pick(record, "error", tokens=x, method=method, **_TIMED) for x in lengths
    ]
    error = max((x for x in errors if x is not None), default=None)
    error = "" if error is None else f"{error:.1e}".replace("e-0", "e-")
    rows.append([label, *map(ratio, cells), error])
  header = [*(f"{x:,} tokens" for x in lengths), "error"]
  return markdown(["C = 512", *header], rows)


def peers_libraries(read: Read) -> str:
  """Time of slim over that of each library, and the peaks of memory."""
  record = read("peers_libraries")
  names = "operation", "tokens", "heads", "is_causal", "library"
  cases = [
    {name: row[name] for name in names}
    for row in record["rows"]
    if row["pass"] == "forward" and row["library"] not in _LEFT_OUT
  ]
  rows = []
  for case in cases:
    forward, gradient = (
      select(record, "slim_over_peer", **case, **{"pass": name})
      for name in ("forward", "gradient")
    )
    peaks = (
      select(record, key, **case, **{"pass": "gradient"})
      for key in ("slim_peak_MiB", "peak_MiB")
    )
    causal = ", causal" if case["is_causal"] else ""
    rows.append(
      [
        f"{case['operation']}{causal}",
        f"{case['tokens']:,} × {case['heads']}",
        case["library"],
        ratio(forward),
        ratio(gradient),
        *(three_digits(x) for x in peaks),
      ]
    )
  header = ["attention", "tokens × heads", "library"]
  columns = ["forward", "gradient", "MiB, slim", "MiB, library"]
  return markdown([*header, *columns], rows, left=3)
