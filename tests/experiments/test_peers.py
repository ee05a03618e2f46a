"""The comparison with other libraries: their processes, arrays and tables."""

import functools
import pathlib
import sys
import types

import numpy as np
import pytest

PEERS = pathlib.Path(__file__).parents[2] / "experiments" / "peers"
# A module as those of experiments/peers, for a process without any library.
TOY = """
PACKAGES = ("numpy",)


def load(name, settings, inputs):
  print("a library that prints")
  x = inputs["x"] * settings["factor"]
  return {"forward": lambda: [x], "gradient": lambda: 1 / 0}
"""


@pytest.fixture
def ask(beside, tmp_path, monkeypatch):
  """Returns `ask` of a worker that runs the toy module."""
  from peer_environments import Worker

  (tmp_path / "toy.py").write_text(TOY)
  np.savez(tmp_path / "inputs.npz", x=np.arange(3.0))
  monkeypatch.setenv("PYTHONPATH", str(tmp_path))
  with Worker(sys.executable, "toy") as worker:
    yield worker.ask


def test_a_worker_runs_what_it_is_asked_for(ask, tmp_path):
  """Fails if results are mixed up, or a library's words taken for answers."""
  inputs, outputs = str(tmp_path / "inputs.npz"), str(tmp_path / "y.npz")
  loaded = ask(load="a", settings={"factor": 2}, inputs=inputs)
  assert loaded == {"versions": f"numpy {np.__version__}"}
  assert set(ask(run=["a", "forward"], outputs=outputs)) == {"peak_MiB"}
  np.testing.assert_array_equal(np.load(outputs)["arr_0"], [0, 2, 4])
  assert ask(run=["a", "forward"]) == {}


def test_a_worker_says_why_a_library_fails(ask, beside, tmp_path):
  """Fails if a library that does not run ends an hour of measuring."""
  from peer_environments import PeerError

  inputs = str(tmp_path / "inputs.npz")
  ask(load="a", settings={"factor": 2}, inputs=inputs)
  with pytest.raises(PeerError, match="ZeroDivisionError: division by zero"):
    ask(run=["a", "gradient"])
  assert ask(run=["a", "forward"]) == {}  # It goes on.


def test_an_environment_is_made_once(beside, tmp_path, monkeypatch):
  """Fails if pip runs each time, or never for new requirements."""
  import peer_environments

  commands, code = [], 0

  def run(command, **_):
    commands.append(list(map(str, command)))
    (tmp_path / "peer").mkdir(exist_ok=True)
    return types.SimpleNamespace(returncode=code, stderr="a\nno such release")

  monkeypatch.setattr(peer_environments.subprocess, "run", run)
  args = tmp_path / "peer", "python3", "requirements.txt"
  for _ in range(2):
    python = peer_environments.make_environment(*args)
    assert python == tmp_path / "peer" / "bin" / "python"
  assert [x[2] for x in commands] == ["venv", "pip"]
  code = 1
  (tmp_path / "peer" / "requirements.txt").write_text("torch==1.0")
  with pytest.raises(peer_environments.PeerError, match="no such release"):
    peer_environments.make_environment(*args)


def test_an_environment_that_fails_ends_the_run(beside, monkeypatch, tmp_path):
  """Fails if a result without any library is stored, and kept for good."""
  import peer_environments

  def make(*args):
    raise peer_environments.PeerError("cannot be installed: no network")

  monkeypatch.setattr(peer_environments, "make_environment", make)
  with pytest.raises(ValueError, match="no network: try again"):
    peer_environments.make_environments(tmp_path, None)
  monkeypatch.setattr(peer_environments, "make_environment", lambda *_: "x")
  monkeypatch.setattr(peer_environments, "find_newer_python", lambda: None)
  with pytest.raises(ValueError, match="--newer_python must be Python 3.12"):
    peer_environments.make_environments(tmp_path, None)


@pytest.mark.parametrize("is_causal", [False, True])
def test_tokens_that_libraries_treat_differently_are_found(beside, is_causal):
  """Fails if LSH attention is compared where definitions differ."""
  import peer_cases

  # Two chunks: even tokens, then odd ones. Token 1 is the first that meets one.
  buckets = np.arange(128)[None] % 2
  found = peer_cases.agrees(buckets, is_causal)
  np.testing.assert_array_equal(found, buckets[0] == 1)
  # Chunks in the reverse order: no token of the first meets an earlier one.
  buckets = np.repeat([[1, 0]], 64, 1)
  found = peer_cases.agrees(buckets, is_causal)
  assert found[1:64].all() and not found[64:].any()
  assert found[0] == (not is_causal)


def test_slim_computes_what_the_libraries_are_compared_with(
  beside, monkeypatch
):
  """Fails if a counterpart in slim is not the attention it is named after."""
  import peer_cases

  monkeypatch.syspath_prepend(PEERS)
  import in_slim

  inputs = peer_cases.make_inputs(peer_cases.Case("linear", 128, 2, True))
  y = in_slim.load("slim, linear", {}, inputs)["forward"]()[0]
  q, k = (
    np.maximum(64**-0.25 * inputs[x] @ inputs["projection"].T, 0) + 1e-3
    for x in "qk"
  )
  scores = np.tril(np.einsum("bthm,bshm->bhts", q, k))
  right = np.einsum(
    "bhts,bshv->bthv",
    scores / (scores.sum(-1, keepdims=True) + 1e-6),
    inputs["v"],
  )
  np.testing.assert_allclose(y, right, atol=1e-4)


def test_tables_have_the_numbers_of_their_rows(beside):
  """Fails if a table shows a library the numbers of another."""
  from claims import tables_peers

  rows = [
    {"tokens": 4096, "method": method, "chunk_size": size}
    | {"activation_MiB": memory, "seconds": 2.0}
    | {"over_full": over, "error": 1e-7}
    for method, size, memory, over in (
      ("full", 4096, 1380.0, 1.0),
      ("slim, rewind", 512, 200.0, 1.25),
      ("two-level lax.scan(jax.checkpoint)", 512, 300.0, 1.5),
    )
  ]
  records = {"peers": {"rows": rows}}
  memory = tables_peers.peers_memory(records.get).splitlines()
  assert memory[2] == "| full | 1,380 |"
  assert "| the same on two levels, C = 512 | 300 |" in memory
  time = tables_peers.peers_time(records.get).splitlines()
  assert "| rewind | 1.25 |  | 1.0e-7 |" in time
  case = {"operation": "softmax", "tokens": 1024, "heads": 8}
  records["peers_libraries"] = {
    "rows": [
      case
      | {"is_causal": True, "library": library, "pass": name}
      | {"slim_over_peer": over, "slim_peak_MiB": 1.0, "peak_MiB": 8.0}
      for library, name, over in (
        ("PyTorch", "forward", 1.5),
        ("PyTorch", "gradient", 0.5),
        ("PyTorch, memory-efficient", "forward", 1.4),
        ("PyTorch, memory-efficient", "gradient", 0.4),
        ("jax.nn", "forward", None),
        ("jax.nn", "gradient", 0.6),
      )
    ]
  }
  assert tables_peers.peers_libraries(records.get).splitlines()[2:] == [
    "| softmax, causal | 1,024 × 8 | PyTorch | 1.50 | 0.50 | 1 | 8 |",
    "| softmax, causal | 1,024 × 8 | jax.nn |  | 0.60 | 1 | 8 |",
  ]


def test_results_are_compared_where_definitions_agree(beside, tmp_path):
  """Fails if other results pass as equal, or padding counts as a difference."""
  import peers_libraries

  np.savez(tmp_path / "inputs.npz", y_ct=[0.0, 1.0, 1.0])
  np.savez(tmp_path / "slim.npz", [1.0, 2.0, 4.0])
  np.savez(tmp_path / "other.npz", [9.0, 2.0, 5.0])
  found = [
    peers_libraries.difference(direction, tmp_path, "slim", "other")
    for direction in ("forward", "gradient")
  ]
  assert found == [0.25, 2.0]
  np.savez(tmp_path / "other.npz", a=[1.0], b=[np.nan])
  np.savez(tmp_path / "slim.npz", a=[1.0], b=[1.0])
  args = "gradient", tmp_path, "slim", "other"
  assert np.isnan(peers_libraries.difference(*args))


@pytest.mark.parametrize("difference", [2e-3, float("nan")])
def test_other_results_are_not_timed(beside, monkeypatch, tmp_path, difference):
  """Fails if a library that computes something else has a time in the table."""
  import peers_libraries

  monkeypatch.setattr(
    peers_libraries,
    "difference",
    lambda *args: difference if args[-1] == "a" else 0.0,
  )
  programs = {
    name: lambda outputs=None: {"peak_MiB": 1.0} for name in ("s", "a")
  }
  monkeypatch.setattr(
    peers_libraries, "_ROUNDS", types.SimpleNamespace(value=1)
  )
  found = peers_libraries.run(programs, "s", "forward", tmp_path)
  assert "seconds" in found["s"] and "seconds" not in found["a"]
  assert found["a"]["note"] == "its results differ"


def test_libraries_take_turns_in_any_order(beside, monkeypatch, tmp_path):
  """Fails if a library always runs after the one that slows it down."""
  import peers_libraries

  monkeypatch.setattr(
    peers_libraries, "_ROUNDS", types.SimpleNamespace(value=8)
  )
  monkeypatch.setattr(peers_libraries, "difference", lambda *_: 0.0)
  calls = []

  def ask(name, outputs=None):
    if name == "broken":
      raise peers_libraries.PeerError("it does not run")
    if outputs is None:
      calls.append(name)
    return {"peak_MiB": 1.0}

  names = "slim", "a", "b", "broken"
  programs = {name: functools.partial(ask, name) for name in names}
  found = peers_libraries.run(programs, "slim", "forward", tmp_path)
  assert all(found[name]["seconds"] > 0 for name in names[:3])
  assert found["broken"] == {"note": "it does not run"}
  assert len(calls) == 2 * 3 * 8
  assert {calls[i - 1] for i in range(2, 48, 2) if calls[i] == "a"} > {"slim"}
