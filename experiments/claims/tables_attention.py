"""The tables of docs/benchmarks.md on softmax attention and the Reformer."""

from claims.expressions import Read
from claims.tables import (
  markdown,
  mebibytes,
  pick,
  ratio,
  seconds,
  three_digits,
)

# Label in the table, and the models of `reformer_memory` that it compares.
_MODELS = {
  "Transformer": "Transformer",
  "Transformer that keeps the probabilities only": (
    "Transformer, probabilities only"
  ),
  "LSH Transformer, all rounds at once": "LSH Transformer, published form",
  "LSH Transformer, rounds one by one": "LSH Transformer",
  "Reversible Transformer": "Reversible",
  "Reformer, all rounds at once": "Reformer, published form",
  "Reformer, rounds one by one": "Reformer, all heads at once",
  "the same, heads one by one": "Reformer",
  "SLiM, C = 256": "SLiM",
  "SLiM with reversible layers": "SLiM × reversible",
}


def softmax_memory(read: Read) -> str:
  """Tables 2 and 3 of Rabe & Staats: memory beyond inputs and outputs."""
  record = read("softmax_memory")
  names = ["jax.nn", "paper", "slim"]
  rows = []
  for passes in ("forward", "gradient"):
    for tokens in (16384, 1048576):
      cells = [
        pick(
          record,
          "overhead_MiB",
          tokens=tokens,
          is_causal=is_causal,
          implementation=name,
          **{"pass": passes},
        )
        for name, is_causal in [*((x, False) for x in names), ("slim", True)]
      ]
      rows.append([passes, f"{tokens:,}", *map(mebibytes, cells)])
  header = ["`jax.nn` (XLA)", "paper", "slim", "slim, causal"]
  return markdown(["MiB", "tokens", *header], rows)


def softmax_time(read: Read) -> str:
  """Tables 2 and 3 of Rabe & Staats: time over that of `jax.nn`."""
  record = read("softmax_memory")
  rows = []
  for passes in ("forward", "gradient"):
    for tokens in (256, 1024, 4096, 16384):
      cells = []
      for name, is_causal in (
        ("jax.nn", False),
        ("paper", False),
        ("slim", False),
        ("slim", True),
      ):
        where = dict(tokens=tokens, is_causal=is_causal, implementation=name)
        where["pass"] = passes
        is_first = name == "jax.nn"
        found = pick(record, "seconds" if is_first else "over_jax", **where)
        cells.append(seconds(found) if is_first else ratio(found))
      rows.append([passes, f"{tokens:,}", *cells])
  header = ["`jax.nn` (XLA)", "paper", "slim", "slim, causal"]
  return markdown(["time", "tokens", *header], rows)


def reformer_memory(read: Read) -> str:
  """Activations of six layers by kind, beside the published peaks."""
  record = read("reformer_memory")
  rows = []
  for label, model in _MODELS.items():
    activations, published = (
      pick(record, key, figure="models", model=model)
      for key in ("activation_MiB", "published_MiB")
    )
    rows.append([label, mebibytes(activations), three_digits(published)])
  return markdown(["", "activations", "published"], rows)


def reformer_growth(read: Read) -> str:
  """The Reformer's activations against layers and rounds of hashing."""
  record = read("reformer_memory")
  rows = []
  for figure, counts in (("layers", (2, 6, 12)), ("hashes", (2, 8, 16))):
    for count in counts:
      where = {"figure": figure, "model": "Reformer", figure: count}
      cells = (
        pick(record, key, **where)
        for key in ("activation_MiB", "published_MiB")
      )
      kind = "rounds" if figure == "hashes" else figure
      rows.append([f"{count} {kind}", *map(three_digits, cells)])
  return markdown(["Reformer", "activations", "published"], rows)


def reversible_time(read: Read) -> str:
  """Time of reversible layers over that of the same model without."""
  rows = [
    [row["model"], f"{row['layers']}", row["without"], ratio(row["ratio"])]
    for row in read("reversible_time")["rows"]
  ]
  header = ["model", "layers", "relative to", "ratio"]
  return markdown(header, rows, left=3)


def lsh_time(read: Read) -> str:
  """Time of LSH attention beside softmax attention."""
  record = read("lsh_time_cpu")
  rows = []
  for row in record["rows"]:
    if row["is_causal"]:
      continue
    causal = pick(
      record, "softmax_over_lsh_2", tokens=row["tokens"], is_causal=True
    )
    times = (
      seconds(row[f"{name}_seconds"])
      for name in ("softmax", "lsh_1", "lsh_2", "lsh_4")
    )
    rows.append(
      [
        f"{row['tokens']:,}",
        *times,
        f"{row['lsh_2_microseconds_per_token']:.0f} µs",
        ratio(row["softmax_over_lsh_2"]),
        ratio(causal),
      ]
    )
  header = ["tokens", "softmax", "LSH-1", "LSH-2", "LSH-4"]
  header += ["LSH-2, per token", "ratio", "causal ratio"]
  return markdown(header, rows, left=0)


def duplication(read: Read) -> str:
  """Table 2 of the Reformer paper: accuracy in percent."""
  evaluated = ["full", *(f"lsh-{rounds}" for rounds in (8, 4, 2, 1))]
  rows = [
    [_rounds(row["trained"]), *(f"{row[name]:.1f}" for name in evaluated)]
    for row in read("duplication")["rows"]
  ]
  return markdown(["trained", *map(_rounds, evaluated)], rows)


def _rounds(name):
  """Names an attention: "full", "1 round" or "4 rounds"."""
  if name == "full":
    return name
  count = int(name.removeprefix("lsh-"))
  return f"{count} round{'s' if count > 1 else ''}"
