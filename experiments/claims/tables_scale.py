"""The tables of docs/scale.md."""

from claims.expressions import Read
from claims.tables import markdown, mebibytes, three_digits


def scale_memory(read: Read) -> str:
  """Temporary memory of a device, by mesh, gradient and length."""
  found = [row for row in read("scale")["rows"] if row["part"] == "memory"]
  width = min(row["width"] for row in found)
  found = [row for row in found if row["width"] == width]
  lengths = sorted({row["tokens"] for row in found})
  names = dict.fromkeys((row["mesh"], row["method"]) for row in found)
  rows = []
  for mesh, method in names:
    cells = [
      mebibytes(row["temporary_MiB"])
      for length in lengths
      for row in found
      if (row["mesh"], row["method"], row["tokens"]) == (mesh, method, length)
    ]
    cells += [""] * (len(lengths) - len(cells))
    rows.append([f"`{mesh}`", method, *cells])
  header = ["mesh", "gradient", *(f"T = {n:,}" for n in lengths)]
  return markdown(header, rows, left=2)


def scale_collectives(read: Read) -> str:
  """What a device receives in one gradient, by mesh, axis and kind."""
  rows = [
    [
      f"`{row['mesh']}`",
      row["axes"],
      row["kind"],
      "yes" if row["in_loop"] else "no",
      f"{row['times']:,}",
      three_digits(row["received_MiB"]),
    ]
    for row in read("scale")["rows"]
    if row["part"] == "collectives"
  ]
  header = ["mesh", "axes", "collective", "in the loop", "times", "MiB"]
  return markdown(header, rows, left=4)


def scale_precision(read: Read) -> str:
  """Errors of gradients on meshes against one device."""
  found = [row for row in read("scale")["rows"] if row["part"] == "precision"]
  names = dict.fromkeys((row["mesh"], row["attention"]) for row in found)
  rows = []
  for mesh, attention in names:
    cells = [
      f"{row[kind]:.1e}" if row[kind] else "0"
      for dtype in ("float64", "float32")
      for kind in ("loss_error", "gradient_error")
      for row in found
      if (row["mesh"], row["attention"]) == (mesh, attention)
      and row["dtype"] == dtype
    ]
    rows.append([f"`{mesh}`", attention, *cells])
  header = [
    f"{dtype}: {what}"
    for dtype in ("float64", "float32")
    for what in ("loss", "gradient")
  ]
  return markdown(["mesh", "attention", *header], rows, left=2)


def scale_model(read: Read) -> str:
  """The share of the exchange in the time of compute, by model and devices."""
  found = read("scale_model")["rows"]
  large = max(row["tokens"] for row in found)
  found = [row for row in found if row["tokens"] < large]
  sizes = sorted({row["chunk_size"] for row in found})
  names = dict.fromkeys((row["model"], row["devices"]) for row in found)
  rows = []
  for model, devices in names:
    cells = [
      f"{three_digits(row['exchange_percent'])} %"
      for size in sizes
      for row in found
      if (row["model"], row["devices"], row["chunk_size"])
      == (model, devices, size)
    ]
    rows.append([model, devices, *cells])
  header = ["model", "devices", *(f"C = {size:,}" for size in sizes)]
  return markdown(header, rows, left=2)
