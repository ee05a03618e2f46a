"""The tables of docs/ on runs and generation."""

from claims.expressions import Read
from claims.tables import markdown, ratio, three_digits


def generation_speed(read: Read) -> str:
  """Tokens per second and state bytes, a row for each model and position."""
  rows = [
    [
      row["model"],
      f"{row['position']:,}",
      three_digits(row["tokens_per_second"]),
      ratio(row["over_first"]),
      f"{row['state_bytes'] / 2**20:.2f}",
    ]
    for row in read("generation_speed")["rows"]
  ]
  header = ["position", "tokens/s", "time over the first", "state, MiB"]
  return markdown(["model", *header], rows)


def generated_text(read: Read) -> str:
  """What each of three models of one size writes."""
  parts = []
  for row in read("model_curves")["rows"]:
    bits = f"{row['validation_bpc']:.2f} bits per byte"
    text = "\n".join(line.rstrip() for line in row["text"].splitlines())
    parts.append(f"`{row['config']}`, {bits}:\n\n```text\n{text}\n```")
  return "\n\n".join(parts)
