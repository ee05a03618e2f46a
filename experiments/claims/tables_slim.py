"""The tables of docs/benchmarks.md on SLiM: memory, time, error, training."""

from claims.expressions import Read
from claims.tables import (
  markdown,
  mebibytes,
  pick,
  ratio,
  seconds,
  three_digits,
)

_SCAN = "lax.scan(jax.checkpoint)"
_CONFIGURATIONS = ("I", "II", "III", "IV")


def memory_vs_length(read: Read) -> str:
  """Activations of one gradient, a row for each length."""
  record = read("memory_vs_length")
  columns = [(_SCAN, 64)]
  columns += [(f"slim, {x}", 64) for x in ("store", "sqrt", "rewind")]
  columns.append(("slim, rewind", 512))
  lengths = dict.fromkeys(row["tokens"] for row in record["rows"])
  rows = []
  for tokens in lengths:
    cells = [
      pick(
        record, "activation_MiB", tokens=tokens, method=method, chunk_size=size
      )
      for method, size in [("full", tokens), *columns]
    ]
    rows.append([f"{tokens:,}", *map(mebibytes, cells)])
  header = [f"{_name(method)}, C = {size}" for method, size in columns]
  return markdown(["tokens", "full", *header], rows, left=0)


def step_time(read: Read) -> str:
  """Time of one gradient over that of full."""
  records = {x: read(f"step_time_{x}") for x in _CONFIGURATIONS[1:]}
  rows = []
  for row in records["II"]["rows"]:
    method, size = row["method"], row["chunk_size"]
    cells = []
    for record in records.values():
      if method == "full":
        cells.append(seconds(pick(record, "seconds", method="full")))
      else:
        found = pick(record, "over_full", method=method, chunk_size=size)
        cells.append(ratio(found))
    label = "full" if method == "full" else f"{_name(method)}, C = {size}"
    rows.append([label, *cells])
  return markdown(["", *records], rows)


def slim_tradeoff(read: Read) -> str:
  """Figure 3 of the SLiM paper: time and memory against C."""
  records = {x: read(f"slim_tradeoff_{x}") for x in _CONFIGURATIONS}
  labels = dict.fromkeys(
    (row["method"], row["chunk_size"])
    for row in records["IV"]["rows"]
    if row["method"] != "full"
  )
  full = [
    f"{seconds(pick(x, 'seconds', method='full'))}, "
    f"{mebibytes(pick(x, 'activation_MiB', method='full'))} MiB"
    for x in records.values()
  ]
  rows = [["full", *full]]
  for method, size in labels:
    cells = []
    for record in records.values():
      time, memory = (
        pick(record, key, method=method, chunk_size=size)
        for key in ("over_full", "activation_MiB")
      )
      cells.append(time and f"{ratio(time)}, {mebibytes(memory)} MiB" or "")
    rows.append([f"{_name(method)}, C = {size}", *cells])
  return markdown(["", *records], rows)


def gradient_error(read: Read) -> str:
  """The largest relative errors of each configuration and its weights."""
  rows = []
  for name in _CONFIGURATIONS:
    record = read(f"gradient_error_{name}")
    for weights in dict.fromkeys(row["weights"] for row in record["rows"]):
      found = [row for row in record["rows"] if row["weights"] == weights]
      cells = [
        f"{max(row[key] for row in found):.1e}"
        for key in ("slim_to_full", "slim_to_float64", "full_to_float64")
      ]
      rows.append([f"{name}, {weights}", *cells])
  header = ["slim to full", "slim to float64", "full to float64"]
  return markdown(["configuration, weights", *header], rows)


def learning_curves(read: Read, task: str) -> str:
  """Figure 4 of the SLiM paper: the runs of a task where they end."""
  record = read(f"learning_curves_{task}")
  metric = "accuracy" if task == "copying" else "bpc"
  rows = []
  for row in record["rows"]:
    values = [
      _metric(row[f"validation_{metric}"], metric),
      _distance(row["distance_to_full"], metric),
      _metric(row[f"training_{metric}"], metric),
    ]
    steps = f"{row['compared_step']:,}"
    rows.append([_run(row["run"]), steps, *values])
  kind = "accuracy" if metric == "accuracy" else "bits per byte"
  header = [f"{task}: gradient", "step", f"{kind}, validation"]
  header += ["distance to full", "training"]
  return markdown(header, rows)


def finetune(read: Read, task: str) -> str:
  """The fine-tuning table of the SLiM paper."""
  rows = []
  for row in read(f"finetune_{task}")["rows"]:
    size = row["chunk_size"]
    rows.append(
      [
        f"slim, C = {size:,}" if size else "full",
        f"{row['bpc_before']:.4f}",
        f"{row['bpc_after']:.4f}",
        _distance(row["largest_distance_to_full"], "bpc"),
        f"{mebibytes(row['activation_MiB'])} MiB",
        ratio(row["over_full"]),
      ]
    )
  header = [f"{task}: gradient", "before", "after", "largest distance to full"]
  return markdown([*header, "activations", "time"], rows)


def finetune_rates(read: Read, task: str) -> str:
  """What learning rates do in one step of fine-tuning."""
  rows = [
    [
      f"{row['learning_rate']:g}",
      f"{row['bpc_before']:.4f}",
      f"{row['bpc_after']:.4f}",
      f"{row['median_change']:+.4f}",
      f"{100 * row['share_better']:.0f} %",
    ]
    for row in read(f"finetune_rates_{task}")["rows"]
  ]
  header = [f"{task}: learning rate", "before", "after", "median change"]
  return markdown([*header, "improved"], rows)


def model_curves(read: Read) -> str:
  """Three models of one size, trained on the same tokens."""
  rows = [
    [
      f"`{row['config']}`",
      f"{row['validation_bpc']:.2f}",
      f"{mebibytes(row['activation_MiB'])} MiB",
    ]
    for row in read("model_curves")["rows"]
  ]
  return markdown(["config", "bits per byte, validation", "activations"], rows)


def plan_accuracy(read: Read, config: str) -> str:
  """What `slim.plan` predicts of a gradient, and what was measured."""
  rows = []
  for row in read(f"plan_accuracy_{config}")["rows"]:
    size = row["chunk_size"]
    memory = (
      mebibytes(row[key])
      for key in ("formula_MiB", "compiled_MiB", "resident_MiB")
    )
    times = (ratio(row[key]) for key in ("predicted_time", "time"))
    label = row["gradient"] + (f", C = {size}" if size else "")
    rows.append([label, *memory, *times])
  header = ["estimate", "compiled", "process grew by"]
  return markdown(["", *header, "time, predicted", "measured"], rows)


def compile_time(read: Read) -> str:
  """Processor time to compile one gradient, by depth."""
  record = read("compile_time")
  depths = list(dict.fromkeys(row["layers"] for row in record["rows"]))
  columns = [(x, False) for x in depths] + [(depths[-1], True)]
  rows = []
  for length in dict.fromkeys(row["length"] for row in record["rows"]):
    for method in dict.fromkeys(row["method"] for row in record["rows"]):
      cells = [
        pick(
          record,
          "seconds",
          layers=layers,
          stacked=stacked,
          length=length,
          method=method,
        )
        for layers, stacked in columns
      ]
      rows.append([method, f"{length:,}", *map(three_digits, cells)])
  header = [
    f"{layers} layers{', stacked' if stacked else ''}"
    for layers, stacked in columns
  ]
  return markdown(["gradient", "tokens", *header], rows)


def _name(method):
  """Names a method as the text does."""
  return f"`{_SCAN}`" if method == _SCAN else method.removeprefix("slim, ")


def _metric(value, metric):
  """Writes an accuracy in percent, or bits per byte."""
  return f"{100 * value:.2f} %" if metric == "accuracy" else f"{value:.4f}"


def _distance(value, metric):
  """Writes a distance to full, which is 0 for full itself."""
  if value == 0:
    return "0"
  return _metric(value, metric) if metric == "accuracy" else f"{value:.1e}"


def _run(run):
  """Names a run of learning_curves.py."""
  method, _, rest = run.partition("-")
  if rest == "seed":
    return "full, another seed"
  method = method.replace("_", " ")
  return f"{method}, C = {int(rest):,}" if rest else method
