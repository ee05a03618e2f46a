"""`make reproduce`: what it runs, and how it fails."""

import copy
import importlib.metadata
import pathlib
import re
import types

import pytest
from absl.testing import flagsaver


@pytest.fixture
def reproduce(beside):
  """Returns the script with parsed flags."""
  import reproduce

  with flagsaver.flagsaver():
    reproduce.flags.FLAGS(["reproduce"])
    yield reproduce


def test_every_script_is_reproduced(reproduce):
  """Fails if a new experiment is forgotten, or a result has no script."""
  folder = reproduce.documents.RESULTS.parent
  scripts = {
    path.stem
    for path in folder.glob("*.py")
    if "command_line.run(main" in path.read_text()
  }
  assert {x.script for x in reproduce.EXPERIMENTS} == scripts - {"reproduce"}
  recorded = {path.stem for path in (folder / "results").glob("*.json")}
  recorded = {
    name for name in recorded if not name.endswith(("_quick", "_part"))
  }
  names = {x.name for x in reproduce.EXPERIMENTS}
  assert recorded <= names | reproduce.OF_OLDER_CODE


@pytest.mark.parametrize("place", ["text", "result"])
def test_a_changed_number_fails(reproduce, monkeypatch, tmp_path, place):
  """Fails if a number of the README can be changed by hand."""
  documents = reproduce.documents
  read, readme = documents.read_result, documents.ROOT / "README.md"
  text = readme.read_text()
  if place == "text":
    changed = re.sub(
      "plain gradient needs 1(?=,)", "plain gradient needs 9", text
    )
    assert changed != text
    text = changed
  else:
    record = copy.deepcopy(read("memory_vs_length"))
    for row in record["rows"]:
      row["activation_MiB"] *= 1.01
    monkeypatch.setattr(
      documents,
      "read_result",
      lambda name, quick: record if name == "memory_vs_length" else read(name),
    )
  (tmp_path / "README.md").write_text(text)
  monkeypatch.setattr(documents, "ROOT", tmp_path)
  found = list(documents.check())
  assert found and all("README.md:" in line for line in found)
  assert any("The plain gradient needs" in line for line in found)


def test_a_quick_run_names_what_fails(reproduce, monkeypatch, capsys):
  """Fails if a failed script or sentence does not fail the whole run."""
  started, on_cpu = [], {}
  monkeypatch.delenv("JAX_PLATFORMS", raising=False)

  def run(command, cwd, env):
    started.append(command[1:])
    on_cpu[pathlib.Path(command[1]).stem] = env.get("JAX_PLATFORMS") == "cpu"
    failed = command[1].endswith("lsh_time.py")
    return types.SimpleNamespace(returncode=int(failed))

  monkeypatch.setattr(reproduce.subprocess, "run", run)
  monkeypatch.setattr(
    reproduce.documents,
    "check",
    lambda quick=False: ['docs/x.md:1: "It is fast.": false'] * quick,
  )
  reproduce.flags.FLAGS.mode = "quick"
  with pytest.raises(SystemExit):
    reproduce.main()
  assert capsys.readouterr().err.splitlines() == [
    "lsh_time.py --quick failed, see above",
    'docs/x.md:1: "It is fast.": false',
  ]
  assert all(arguments == ["--quick"] for _, *arguments in started)
  assert len(started) == len({x.script for x in reproduce.EXPERIMENTS})
  # Elsewhere the numbers of a GPU would stand under the name of a CPU.
  assert [name for name, found in on_cpu.items() if not found] == ["on_gpu"]


def test_a_full_run_continues(reproduce, monkeypatch):
  """Fails if results of today's code are measured again for hours."""
  with pytest.raises(ValueError, match="--enwik8 is missing: --mode=full"):
    reproduce.run_full()
  for name in ("enwik8", "ptb", "shakespeare"):
    setattr(reproduce.flags.FLAGS, name, f"/data/{name}")
  started = []

  def run(script, arguments, needs_gpu):
    started.append(arguments)
    return script == "million_tokens"

  monkeypatch.setattr(reproduce, "run", run)
  monkeypatch.setattr(
    reproduce,
    "is_up_to_date",
    lambda name, *_: name not in ("million_tokens", "recurrences"),
  )
  failures = reproduce.run_full()
  assert started == [("--text=/data/enwik8",), ()]
  # The others go on: one may need what this machine does not have.
  assert [x.partition(" ")[0] for x in failures] == ["million_tokens.py"]


@pytest.fixture
def up_to_date(beside):
  """Returns the module."""
  import up_to_date

  return up_to_date


def test_results_of_other_code_are_not_kept(up_to_date, monkeypatch):
  """Fails if a result is kept after the kernel has changed."""
  script = "memory_vs_length"
  command = f"python experiments/{script}.py"
  versions = {x: importlib.metadata.version(x) for x in ("jax", "jaxlib")}
  record = {"command": command, "commit": "abc", "rows": []}
  record["versions"] = versions | {"jax": "0.1"}
  monkeypatch.setattr(up_to_date.documents, "read_result", lambda _: record)
  commands = []

  def run(command, cwd):
    commands.append(command)
    return types.SimpleNamespace(returncode=len(commands) - 1)

  monkeypatch.setattr(up_to_date.subprocess, "run", run)
  assert not up_to_date.is_up_to_date("a", script, ()) and not commands
  record["versions"] = versions
  assert up_to_date.is_up_to_date("a", script, ())
  assert not up_to_date.is_up_to_date("a", script, ())
  command = commands[0]
  assert command[:5] == ["git", "diff", "--quiet", "abc", "--"]
  assert {"slim", f"experiments/{script}.py"} < set(command)
  assert "experiments/configurations.py" in command
  assert "experiments/figures.py" not in command
  # Runs that were trained before have commits of their own.
  record["rows"] = [{"commit": "old older"}, {"commit": "older"}, {}]
  commands.clear()
  assert not up_to_date.is_up_to_date("a", script, ())
  assert [command[3] for command in commands] == ["old", "older"]
  del record["commit"], record["rows"][:]
  assert not up_to_date.is_up_to_date("a", script, ())


def test_results_of_a_shorter_run_are_not_kept(up_to_date, monkeypatch):
  """Fails if a trial with few steps stands for the whole experiment."""
  versions = {x: importlib.metadata.version(x) for x in ("jax", "jaxlib")}
  record = {"command": "", "commit": "abc", "rows": [], "versions": versions}
  monkeypatch.setattr(up_to_date.documents, "read_result", lambda _: record)
  monkeypatch.setattr(up_to_date, "run_git", lambda *_: 0)
  arguments = ("--text={enwik8}", "--steps=9")
  for flags, right in (
    ("--text=enwik8 --steps=9", True),
    ("--text=enwik8 --steps=9 --ptb=ptb", True),
    ("--steps=9", False),
    ("--text=enwik8 --steps=8", False),
    ("--text=enwik8", False),
    ("--text=enwik8 --steps=9 --parts=a", False),
  ):
    record["command"] = f"python experiments/peers.py {flags}"
    found = up_to_date.is_up_to_date("peers", "peers", arguments)
    assert found == right, flags


def test_a_script_is_measured_with_what_it_imports(up_to_date):
  """Fails if a result is kept after its baseline has changed."""
  files = up_to_date.list_files("peers_libraries")
  assert {"experiments/peer_cases.py", "experiments/peers"} < set(files)
  files = up_to_date.list_files("gradient_error")  # By `import`, not `from`.
  assert "experiments/training_runs.py" in files
