"""Who is at the other end while the conformance kit checks: each says its part, and ends with the folder."""

from __future__ import annotations

import os
import select
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from vbox_plugin_host.conformance import KEYS, other_end

CHECKED = """
import pathlib, sys
from vbox_plugin_host.conformance import other_end
print(other_end(pathlib.Path(sys.argv[1]), "serve"), flush=True)
input()
"""


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    made = tmp_path / "check"
    made.mkdir()
    yield made
    shutil.rmtree(made, ignore_errors=True)


def read(descriptor: int) -> bytes:
    assert select.select([descriptor], [], [], 20)[0]
    try:
        return os.read(descriptor, 65536)
    except OSError:
        return b""  # how Linux says that the other side of a terminal was closed


def test_server_echoes_until_the_folder_is_gone(folder: Path) -> None:
    port = int(other_end(folder, "serve"))

    with socket.create_connection(("127.0.0.1", port), 20) as peer:
        assert peer.recv(len(KEYS)) == KEYS
        peer.send(b"again")
        assert peer.recv(100) == b"again"
        shutil.rmtree(folder)

        assert peer.recv(100) == b""


def test_server_ends_with_the_process_that_is_checked(folder: Path) -> None:
    checked = subprocess.Popen(
        [sys.executable, "-c", CHECKED, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with checked:
        assert checked.stdout is not None
        port = int(checked.stdout.readline())
        with socket.create_connection(("127.0.0.1", port), 20) as peer:
            assert peer.recv(len(KEYS)) == KEYS
            checked.kill()

            assert peer.recv(100) == b""


def test_terminal_is_typed_at_until_the_folder_is_gone(folder: Path) -> None:
    terminal = os.open(other_end(folder, "sit"), os.O_RDWR | os.O_NOCTTY)
    try:
        assert read(terminal).startswith(KEYS)
        os.write(terminal, bytes(4096))
        shutil.rmtree(folder)

        while read(terminal):
            pass
    finally:
        os.close(terminal)


def test_terminal_is_visited_as_soon_as_it_is_there(folder: Path) -> None:
    link = folder / "terminal"
    other_end(folder, "visit", str(link))
    master, slave = os.openpty()

    os.symlink(os.ttyname(slave), link)

    assert read(master).startswith(KEYS[:4])
    os.close(master)
    os.close(slave)


def test_terminal_of_another_process_is_left_alone(folder: Path) -> None:
    theirs = folder / "theirs"
    theirs.symlink_to(other_end(folder, "sit"))
    other_end(folder, "visit", str(theirs))
    terminal = os.open(theirs, os.O_RDWR | os.O_NOCTTY)
    seen = b""
    while len(seen) < 4 * len(KEYS):  # what is typed there, and nothing that a visitor took or echoed
        seen += read(terminal)
    os.close(terminal)

    assert seen.startswith(4 * KEYS)
