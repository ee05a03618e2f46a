"""The tables of docs/benchmarks.md on XLA's compilers for CPU, TPU and GPU."""

from claims.expressions import Read
from claims.tables import markdown, mebibytes, pick, three_digits

_TARGETS = {"cpu": "CPU", "tpu:v5e": "v5e", "cuda:h100": "H100"}
# Rabe & Staats, 2021, Tables 2 and 3: MiB beyond inputs and outputs on a TPUv3.
_PUBLISHED = {
  "forward": (270 / 1024, 4, 16, 17, 21, 64, 256),
  "gradient": (532 / 1024, 8, 41, 64, 257, 1024, 4096),
}


def targets_gradients(read: Read) -> str:
  """Temporary memory of a Performer by gradient, length and target."""
  record = read("targets")
  found = [row for row in record["rows"] if row["part"] == "performer"]
  names = dict.fromkeys(row["what"] for row in found)
  lengths = dict.fromkeys(row["tokens"] for row in found)
  rows = []
  for name in names:
    cells = [
      _cell(record, part="performer", what=name, tokens=tokens, target=target)
      for tokens in lengths
      for target in _TARGETS
    ]
    rows.append([name.replace(" ", ", C = "), *cells])
  header = [f"{tokens:,}: {x}" for tokens in lengths for x in _TARGETS.values()]
  return markdown(["MiB", *header], rows)


def targets_attention(read: Read) -> str:
  """Temporary memory of attention kernels, before and after."""
  return _before_and_after(read, "attention", "tokens")


def targets_depth(read: Read) -> str:
  """Temporary memory of reversible layers by depth, before and after."""
  return _before_and_after(read, "reversible", "layers")


def targets_rabe_staats(read: Read) -> str:
  """Tables 2 and 3 of Rabe & Staats beside those of a TPU v5e."""
  record = read("targets")
  rows = []
  for passes, published in _PUBLISHED.items():
    for size, value in zip(range(8, 21, 2), published, strict=True):
      where = dict(part="rabe_staats", tokens=2**size, target="tpu:v5e")
      cells = [
        _cell(record, what=f"{passes}, {name}", **where)
        for name in ("jax.nn", "slim")
      ]
      rows.append([passes, f"{2**size:,}", three_digits(value), *cells])
  header = ["published, TPUv3", "`jax.nn`, v5e", "slim, v5e"]
  return markdown(["MiB", "tokens", *header], rows)


def _before_and_after(read, part, column):
  """Writes cells "before → after", or one number where it is the same."""
  records = [read("targets_before"), read("targets")]
  found = [row for row in records[1]["rows"] if row["part"] == part]
  rows = []
  for what, size in dict.fromkeys((row["what"], row[column]) for row in found):
    cells = []
    for target in _TARGETS:
      where = {"part": part, "what": what, column: size, "target": target}
      pair = dict.fromkeys(_cell(record, **where) for record in records)
      cells.append(" → ".join(x for x in pair if x))
    rows.append([what, f"{size:,}", *cells])
  return markdown(["MiB", column, *_TARGETS.values()], rows)


def _cell(record, **where):
  """Writes a size, and in brackets one that the compiler refused."""
  size = pick(record, "temporary_MiB", **where)
  refused = pick(record, "refused", **where)
  return f"({mebibytes(size)})" if refused else mebibytes(size)
