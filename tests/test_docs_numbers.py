"""README and docs: the numbers are those of experiments/results/."""

import json
import pathlib

ROOT = pathlib.Path(__file__).parents[1]


def read_rows(name):
  """Reads the rows of a file in experiments/results/."""
  path = ROOT / "experiments" / "results" / f"{name}.json"
  return json.loads(path.read_text())["rows"]


def find(name, key, **settings):
  """Returns a value of the only row of a file that has these settings."""
  (row,) = (row for row in read_rows(name) if settings.items() <= row.items())
  return row[key]


def three_digits(x):
  """Rounds a number as the tables do, "1,380" for 1379.8."""
  return f"{float(f'{x:.3g}'):,.0f}"


def test_the_table_of_memory_is_that_of_its_results():
  """Fails if docs/benchmarks.md shows other numbers than the JSON."""
  text = (ROOT / "docs" / "benchmarks.md").read_text()
  columns = [
    ("lax.scan(jax.checkpoint)", 64),
    ("slim, store", 64),
    ("slim, sqrt", 64),
    ("slim, rewind", 64),
    ("slim, rewind", 512),
  ]
  for tokens in sorted(
    {row["tokens"] for row in read_rows("memory_vs_length")}
  ):
    cells = [
      find(
        "memory_vs_length",
        "activation_MiB",
        tokens=tokens,
        method=method,
        chunk_size=chunk_size,
      )
      for method, chunk_size in [("full", tokens), *columns]
    ]
    cells = " | ".join(map(three_digits, cells))
    assert f"| {tokens:,} | {cells} |" in text


def test_the_headlines_are_those_of_the_results():
  """Fails if the front page shows other numbers than the JSON."""
  text = " ".join((ROOT / "README.md").read_text().split())
  memory = {
    (row["tokens"], row["method"]): row["activation_MiB"]
    for row in read_rows("memory_vs_length")
    if row["chunk_size"] in (64, row["tokens"])
  }
  million = 2**20
  assert (
    f"{memory[4096, 'slim, rewind']:.0f} MiB of activations for 4,096 and for "
    f"{million:,} tokens. The plain gradient needs "
    f"{three_digits(memory[4096, 'full'])} MiB and "
    f"{memory[million, 'full'] / 1024:.0f} GiB."
  ) in text
  assert round(memory[million, "slim, rewind"]) == round(
    memory[4096, "slim, rewind"]
  )
  how = {"method": "slim, rewind", "chunk_size": 512}
  assert (
    f"{find('step_time_II', 'over_full', **how):.2f} × the plain gradient at "
    f"1,024 tokens, {find('step_time_IV', 'over_full', **how):.2f} × at 16,384."
  ) in text
  ratios = [
    row["ratio"]
    for name in ("I", "II", "III", "IV")
    for row in read_rows(f"gradient_error_{name}")
  ]
  assert f"at most {max(ratios):.2f} × the rounding error" in text
  resident = read_rows("million_tokens")[-1]["largest_resident_MiB"] * 2**20
  assert f"in a process of {resident / 1e9:.2f} GB" in text
  where = {"tokens": 16384, "is_causal": False, "pass": "gradient"}
  slim, jax_nn = (
    find("softmax_memory", "overhead_MiB", implementation=name, **where)
    for name in ("slim", "jax.nn")
  )
  assert f"{slim:.1f} MiB instead of {three_digits(jax_nn)}" in text
  layers = {
    (row["model"], row["layers"]): row["activation_MiB"]
    for row in read_rows("reformer_memory")
    if row["figure"] == "layers"
  }
  assert round(layers["Reformer", 2]) == round(layers["Reformer", 12])
  assert (
    f"{layers['Reformer', 2]:.0f} MiB with 2 layers and with 12. A Transformer "
    f"with 6 needs {layers['Transformer', 6]:,.0f}."
  ) in text
