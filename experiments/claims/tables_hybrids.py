"""The tables of recurrences and hybrids in docs/benchmarks.md."""

from claims.expressions import Read
from claims.tables import markdown, mebibytes, three_digits


def hybrids_memory(read: Read) -> str:
  """Activations by model, gradient and length."""
  found = [row for row in read("hybrids")["rows"] if row["part"] == "memory"]
  lengths = sorted({row["tokens"] for row in found})
  names = dict.fromkeys((row["model"], row["method"]) for row in found)
  rows = []
  for model, method in names:
    by_length = {
      row["tokens"]: mebibytes(row["activation_MiB"])
      for row in found
      if (row["model"], row["method"]) == (model, method)
    }
    rows.append([model, method, *(by_length.get(n, "") for n in lengths)])
  header = ["model", "gradient", *(f"T = {n:,}" for n in lengths)]
  return markdown(header, rows, left=2)


def hybrids_time(read: Read) -> str:
  """Time of a gradient by model and method."""
  rows = [
    [row["model"], row["method"], three_digits(row["over_full"])]
    for row in read("hybrids")["rows"]
    if row["part"] == "time"
  ]
  return markdown(["model", "gradient", "time / full"], rows, left=2)


def recurrences(read: Read) -> str:
  """Cost of each gated kernel."""
  rows = [
    [
      row["kernel"],
      three_digits(row["processor_us_per_token"]),
      three_digits(row["processor_over_ungated"]),
      three_digits(row["clock_over_ungated"]),
      three_digits(row["KiB_per_token"]),
      three_digits(row["compile_seconds"]),
    ]
    for row in read("recurrences")["rows"]
  ]
  header = [
    "kernel",
    "processor, µs / token",
    "/ ungated",
    "clock / ungated",
    "KiB / token",
    "compile, s",
  ]
  return markdown(header, rows)


def mixers(read: Read) -> str:
  """What each mixer reached on the text and on recall."""
  text, recall = read("mixers_text"), read("mixers_recall")
  rows = []
  for row in text["rows"]:
    name = row["mixer"]
    [other] = (x for x in recall["rows"] if x["mixer"] == name)
    solved = [n for n, x in recall["curves"][name] if x >= 0.99]
    rows.append(
      [
        name,
        f"{row['parameters']:,}",
        f"{row['validation_bpc']:.2f}",
        f"{other['parameters']:,}",
        f"{100 * other['validation_accuracy']:.0f} %",
        f"{solved[0]:,}" if solved else "",
      ]
    )
  header = ["bits per byte", "parameters", "recall", "99 % at step"]
  return markdown(["mixer", "parameters", *header], rows)
