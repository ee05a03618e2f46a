"""Notice at once that another process has ended, and end too.

JAX notices it by a missing heartbeat, half a minute later, or in a collective
that fails, or does not. Here each process holds a connection to process 0. The
system closes it when a process ends, however that happens.
"""

import os
import secrets
import selectors
import socket
import sys
import threading
import time
from collections.abc import Callable
from typing import NoReturn

_PATIENCE = 20.0  # Seconds to wait for a connection.
_BYE = b"bye"


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
      OSError: If the connection fails.
    """
    self._name = f"process {index} of {count}"
    self._ending = threading.Event()
    self._lock = threading.Lock()
    self._peers: dict[socket.socket, str] = {}
    if index == 0:
      dual = socket.has_dualstack_ipv6()
      server = socket.create_server(
        ("", 0),
        family=socket.AF_INET6 if dual else socket.AF_INET,
        dualstack_ipv6=dual,
      )
      server.settimeout(_PATIENCE)
      port, password = broadcast(
        (server.getsockname()[1], secrets.randbelow(2**31))
      )
      with server:
        while len(self._peers) < count - 1:
          self._accept(server, password)
    else:
      port, password = broadcast((0, 0))
      peer = socket.create_connection((host, port), _PATIENCE)
      peer.sendall(f"{password} {index}\n".encode())
      self._peers[peer] = "process 0"
    for peer in self._peers:
      peer.settimeout(None)
    threading.Thread(target=self._run, daemon=True).start()

  def leave(self) -> None:
    """Says that this process ends because all is done."""
    self._ending.set()
    self._tell(_BYE)

  def fail(self, message: str) -> None:
    """Says that this process ends because something is wrong.

    Args:
      message: Why, in one line.
    """
    self._ending.set()
    self._tell(f"{self._name}: {message}".encode())

  def _accept(self, server, password):
    """Accepts one process; anybody else may connect, too."""
    peer, _ = server.accept()
    peer.settimeout(_PATIENCE)
    words = peer.recv(100).split()
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
          try:
            said = key.fileobj.recv(4096)
          except OSError:
            said = b""
          if said == _BYE:
            selector.unregister(key.fileobj)
          elif said:
            self._end(said)
          elif self._ending.is_set():
            return
          else:
            self._end(f"{self._peers[key.fileobj]}, which is gone".encode())

  def _end(self, message: bytes) -> NoReturn:
    """Tells the others, says why, and ends."""
    if self._ending.is_set():  # The main thread says why, and ends.
      time.sleep(_PATIENCE)
    self._tell(message)
    text = message.decode(errors="replace")
    print(f"error: ended by {text}", file=sys.stderr, flush=True)
    os._exit(1)

  def _tell(self, message: bytes) -> None:
    with self._lock:
      for peer in self._peers:
        try:
          peer.sendall(message)
        except OSError:
          pass  # It is gone, too.
