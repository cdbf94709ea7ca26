"""A character stream over TCP: a server for one client at a time, or a client.

Bytes pass as they are: there is no telnet protocol.  The device sees the connection in its modem
lines (CTS, DSR and DCD are on while a peer is there).  What the guest sends while nobody is
connected is dropped, as on a line with nothing at its end, or, with `hold`, waits.
"""

from __future__ import annotations

import enum
import errno
import os
import select
import socket
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attrs import frozen

from vbox_pdm import CharStream, ConfigError, DriverType, PdmError, Worker, hookimpl, key
from vbox_plugin_host.pump import CharDriver

if TYPE_CHECKING:
    from vbox_pdm.testing.conformance import Setup

CONNECT_SECONDS = 5.0


class Role(enum.Enum):
    """Who opens the connection."""

    CLIENT = "client"
    SERVER = "server"


@frozen
class Config:
    """Configuration of a TCP stream."""

    role: Role = key(Role.SERVER, help="wait for a client, or connect to a server")
    host: str = key("127.0.0.1", help="name or address to listen on or to connect to")
    port: int = key(0, span=(0, 65535), help="TCP port; a server given 0 takes a free one and logs it")
    reconnect: float = key(
        0.0,
        span=(0, 3600),
        help="client: seconds until it tries again; 0: the connection must succeed at once",
    )
    nodelay: bool = key(True, help="send small segments at once (TCP_NODELAY)")
    hold: bool = key(False, help="keep the guest's output until somebody is connected")


class TcpStream(CharDriver[Config]):
    """One connection at a time."""

    def pdm_construct(self) -> None:
        self.listener: socket.socket | None = None
        self.peer: socket.socket | None = None
        self.tried = False
        _check_host(self.config.host)
        if self.config.role is Role.SERVER:
            self._listen()
        elif not self.config.port:
            raise ConfigError(
                "VERR_OUT_OF_RANGE", "A TCP client cannot connect to port 0", "Give port=1..65535"
            )
        elif not self.config.reconnect:
            self._connected(self._connect())
        self.start()
        if self.peer is None:
            self.discard(not self.config.hold)

    def pdm_destruct(self) -> None:
        super().pdm_destruct()
        if self.peer is not None:
            self.drain(self.peer.fileno())
        for connection in (self.peer, self.listener):
            if connection is not None:
                connection.close()
        self.peer = self.listener = None

    @property
    def port(self) -> int:
        """The port that a server listens on."""
        return int(self.listener.getsockname()[1]) if self.listener is not None else self.config.port

    def serve(self, worker: Worker) -> None:
        """Find a peer, talk to it until it goes, find the next."""
        while worker.running:
            if self.peer is None:
                peer = self._accept() if self.listener is not None else self._try()
                if peer is None:
                    continue
                self._connected(peer)
                self.discard(False)
            assert self.peer is not None
            self.set_connected(True)
            descriptor = self.peer.fileno()
            self.exchange(worker, descriptor, descriptor)
            if worker.running:
                self._gone()

    def _listen(self) -> None:
        where = f"{self.config.host}:{self.config.port}"
        try:
            family, _, _, _, address = socket.getaddrinfo(
                self.config.host, self.config.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            )[0]
            self.listener = socket.create_server(address[:2], family=family, backlog=1)
        except OSError as error:
            raise PdmError(
                "VERR_PDM_HIF_OPEN_FAILED",
                f"Cannot listen on {where}: {error.strerror or error}",
                "Choose another port, or end the program that has it",
            ) from None
        self.listener.setblocking(False)
        self.helpers.log.info("listening on %s:%d", self.config.host, self.port)

    def _accept(self) -> socket.socket | None:
        assert self.listener is not None
        ready, _, _ = select.select([self.listener.fileno(), self.wake_read], [], [])
        if self.wake_read in ready:
            self.pause(0)
        try:
            return self.listener.accept()[0]
        except OSError:
            return None

    def _connect(self) -> socket.socket:
        where = f"{self.config.host}:{self.config.port}"
        try:
            return socket.create_connection((self.config.host, self.config.port), CONNECT_SECONDS)
        except OSError as error:
            raise PdmError(
                "VERR_PDM_HIF_OPEN_FAILED",
                f"Cannot connect to {where}: {error.strerror or error}",
                "Start the server first, or give reconnect=SECONDS",
            ) from None

    def _try(self) -> socket.socket | None:
        if not self.config.reconnect:
            self.pause(None)  # the only connection is over
            return None
        if self.tried:
            self.pause(self.config.reconnect)
        self.tried = True
        try:
            return self._connect_unless_woken()
        except OSError as error:
            self.helpers.log.info("cannot connect yet: %s", error.strerror or error)
            return None

    def _connect_unless_woken(self) -> socket.socket | None:
        family, kind, protocol, _, address = socket.getaddrinfo(
            self.config.host, self.config.port, type=socket.SOCK_STREAM
        )[0]
        attempt = socket.socket(family, kind, protocol)
        try:
            attempt.setblocking(False)
            error = attempt.connect_ex(address)
            if error == errno.EINPROGRESS:
                _, done, _ = select.select([self.wake_read], [attempt], [], CONNECT_SECONDS)
                error = attempt.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) if done else errno.ETIMEDOUT
            if error:
                raise OSError(error, os.strerror(error))
        except OSError:
            attempt.close()
            raise
        return attempt

    def _connected(self, peer: socket.socket) -> None:
        peer.setblocking(False)
        if self.config.nodelay:
            peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.peer = peer
        self.helpers.log.info("connected to %s", peer.getpeername()[0])

    def _gone(self) -> None:
        assert self.peer is not None
        self.peer.close()
        self.peer = None
        self.discard(True)  # what was meant for this peer does not go to the next
        self.discard(not self.config.hold)
        self.set_connected(False)
        self.helpers.log.info("the peer is gone")


def _check_host(host: str) -> None:
    """Raise ConfigError for what no resolver can be asked for."""
    try:
        host.encode("idna")
    except UnicodeError as error:
        raise ConfigError(
            "VERR_INVALID_PARAMETER",
            f"host={host:.80} is neither a name nor an address: {error}",
            "Give one such as localhost, 127.0.0.1 or ::1",
        ) from None


@hookimpl
def vbox_register_drivers(register: Callable[[DriverType], None]) -> None:
    register(DriverType("tcp", TcpStream, Config, serves=CharStream, summary="a character stream over TCP"))


@hookimpl
def vbox_conformance_setup(name: str, folder: Path) -> Setup:
    """For the conformance kit: a client of a server that echoes."""
    from vbox_pdm.testing.conformance import FarEnd, Setup
    from vbox_plugin_host.conformance import KEYS, other_end

    def sends(config: Mapping[str, Any], sent: bytes) -> bytes | None:
        connected = config["role"] == "client" and not config.get("reconnect")
        return KEYS + sent if connected else None

    port = int(other_end(folder, "serve"))
    return Setup(
        {"role": "client", "port": port},
        keys={"host": ("localhost",)},
        configs=({"role": "server", "port": 0}, {"role": "server", "port": 0, "hold": True}),
        refuses=(
            {"port": 0},
            {"role": "server"},
            {"host": "no host"},
            {"host": "x" * 300},
            {"role": "server", "port": 0, "host": "x" * 300},
        ),
        far_end=FarEnd(sends=sends),
    )
