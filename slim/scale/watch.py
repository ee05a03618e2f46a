"""Notice at once that another process has ended, and end too.

JAX notices it by a missing heartbeat, half a minute later, or by a collective
that fails. Some collectives never do. Here each process holds a connection to
process 0. The system closes it when a process ends, however that happens.
"""

import contextlib
import os
import secrets
import selectors
import socket
import sys
import threading
import time
from collections.abc import Callable
from typing import NoReturn

_PATIENCE = 20.0  # Seconds to wait for the connections.
_BYE = b"bye\n"  # Each message is a line.
_LONGEST = 4096  # Bytes of a line.


class Watch:
  """The connections of this process with the others."""

  def __init__(
    self,
    index: int,
    count: int,
    host: str,
    broadcast: Callable[[tuple[int, int]], tuple[int, int]],
  ):
    """Connects, and watches in a thread from then on.

    Args:
      index: Which process this is.
      count: How many there are.
      host: Where process 0 can be reached.
      broadcast: Returns the two numbers, below 2^31, that process 0 has.

    Raises:
      OSError: If this process cannot connect. Process 0 watches those that can.
    """
    self._name = f"process {index} of {count}"
    self._has_failed = False
    self._lock = threading.Lock()
    self._peers: dict[socket.socket, str] = {}
    if index == 0:
      self._serve(count - 1, broadcast)
    else:
      port, password = broadcast((0, 0))
      if port == 0:
        raise OSError("it cannot listen")
      peer = socket.create_connection((host, port), _PATIENCE)
      peer.sendall(f"{password} {index}\n".encode())
      self._peers[peer] = "process 0"
    for peer in self._peers:
      peer.settimeout(None)
    threading.Thread(target=self._run, daemon=True).start()

  def leave(self) -> None:
    """Says that this process ends because all is done."""
    self._tell(_BYE)

  def fail(self, message: str) -> None:
    """Says that this process ends because something is wrong.

    Args:
      message: Why, in one line.
    """
    self._has_failed = True
    self._tell(f"{self._name}: {message[:1000]}\n".encode())

  def _serve(self, count, broadcast):
    """Accepts the other processes; anybody else may connect, too."""
    password = secrets.randbelow(2**31)
    dual = socket.has_dualstack_ipv6()
    try:
      server = socket.create_server(
        ("", 0),
        family=socket.AF_INET6 if dual else socket.AF_INET,
        dualstack_ipv6=dual,
      )
    except OSError:
      broadcast((0, 0))
      raise
    broadcast((server.getsockname()[1], password))
    deadline = time.monotonic() + _PATIENCE
    # A process that does not come is missed by JAX, too, but later.
    with server, contextlib.suppress(TimeoutError):
      while len(self._peers) < count:
        server.settimeout(max(0.01, deadline - time.monotonic()))
        peer, _ = server.accept()
        peer.settimeout(1)
        words = _read_line(peer).split()
        if len(words) == 2 and words[0] == str(password).encode():
          self._peers[peer] = f"process {words[1].decode()}"
        else:
          peer.close()

  def _run(self):
    """Waits for what the others say, or until one of them is gone."""
    with selectors.DefaultSelector() as selector:
      for peer in self._peers:
        selector.register(peer, selectors.EVENT_READ)
      while selector.get_map():
        for key, _ in selector.select():
          said = _read_line(key.fileobj)
          if said == _BYE:
            selector.unregister(key.fileobj)
          else:
            gone = f"{self._peers[key.fileobj]}, which is gone\n"
            self._end(said or gone.encode())

  def _end(self, message: bytes) -> NoReturn:
    """Tells the others, says why, and ends."""
    if self._has_failed:
      time.sleep(_PATIENCE)  # The main thread is about to end the process.
    self._tell(message)
    text = message.decode(errors="replace").strip()
    print(f"error: ended by {text}", file=sys.stderr, flush=True)
    os._exit(1)

  def _tell(self, message: bytes) -> None:
    with self._lock:
      for peer in self._peers:
        with contextlib.suppress(OSError):  # It may be gone, too.
          peer.sendall(message)


def _read_line(peer: socket.socket) -> bytes:
  """Reads a line; b"" if the other end is gone."""
  line = b""
  try:
    while not line.endswith(b"\n"):
      received = peer.recv(1)
      if not received or len(line) == _LONGEST:
        return b""
      line += received
  except OSError:
    return b""
  return line
