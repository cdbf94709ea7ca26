"""The TCP driver against real sockets."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator

import pytest
from host_streams import Line, make
from hypothesis import given, settings
from hypothesis import strategies as st

from vbox_pdm import PdmError
from vbox_pdm.testing import Bench
from vbox_plugin_host import tcp
from vbox_plugin_host.pump import CHUNK, LIMIT, MOST_CALLS

UP, DOWN = (True, True, False, True), (False, False, False, False)
BIG = bytes(range(256)) * 4096  # 1 MiB, more than all buffers on the way


@pytest.fixture
def bench() -> Iterator[Bench]:
    with Bench() as made:
        yield made


def connect(driver: tcp.TcpStream) -> socket.socket:
    return socket.create_connection(("127.0.0.1", driver.port), 5)


def read_all(peer: socket.socket, size: int, into: bytearray) -> threading.Thread:
    def run() -> None:
        while len(into) < size and (data := peer.recv(65536)):
            into.extend(data)

    thread = threading.Thread(target=run)
    thread.start()
    return thread


def test_server_passes_bytes_both_ways_and_shows_the_peer_on_the_lines(bench: Bench) -> None:
    line, driver = make(bench, tcp, "tcp")
    assert line.status == DOWN

    with connect(driver) as peer:
        assert bench.wait(lambda: line.status == UP)
        peer.sendall(b"to the guest \xff\x00")
        assert bench.wait(lambda: line.taken == b"to the guest \xff\x00")
        line.send(b"to the peer \xff\x00")
        assert peer.recv(100) == b"to the peer \xff\x00"
    assert bench.wait(lambda: line.status == DOWN)


def test_server_serves_one_client_after_the_other(bench: Bench) -> None:
    line, driver = make(bench, tcp, "tcp")

    for number in range(3):
        with connect(driver) as peer:
            assert bench.wait(lambda: line.status == UP)
            line.send(b"client %d" % number)
            assert peer.recv(100) == b"client %d" % number
        assert bench.wait(lambda: line.status == DOWN)


def test_device_that_always_has_room_gets_bytes_in_several_goes(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Line, "char_room", lambda self: 16)
    line, driver = make(bench, tcp, "tcp")
    data = bytes(range(256)) * 16

    driver._event(data)
    at_once = len(line.taken)

    assert at_once == 16 * MOST_CALLS < len(data)
    assert bench.wait(lambda: line.taken == data)


def test_slow_guest_slows_down_the_peer_and_loses_nothing(bench: Bench) -> None:
    line, driver = make(bench, tcp, "tcp")
    line.room = 0
    with connect(driver) as peer:
        sender = threading.Thread(target=lambda: peer.sendall(BIG * 8))
        sender.start()
        bench.wait(lambda: driver._unread >= LIMIT)
        bench.wait(lambda: False, 0.2)
        assert driver._unread <= LIMIT + CHUNK
        assert sender.is_alive()

        while len(line.taken) < len(BIG) * 8:
            line.make_room(100_000)
            bench.wait(lambda: line.room == 0 or len(line.taken) == len(BIG) * 8)
        sender.join()

    assert line.taken == BIG * 8
    assert not line.overrun


def test_slow_peer_makes_the_guest_wait_and_loses_nothing(bench: Bench) -> None:
    line, driver = make(bench, tcp, "tcp")
    with connect(driver) as peer:
        assert bench.wait(lambda: line.status == UP)
        line.send(BIG * 16)
        bench.wait(lambda: False, 0.2)
        assert line.to_send  # the guest was told to wait

        received = bytearray()
        reader = read_all(peer, len(BIG) * 16, received)
        assert bench.wait(lambda: len(received) == len(BIG) * 16, 20)
        reader.join()

    assert received == BIG * 16


def test_output_without_a_client_is_dropped(bench: Bench) -> None:
    line, driver = make(bench, tcp, "tcp")

    line.send(BIG)
    assert not line.to_send
    with connect(driver) as peer:
        assert bench.wait(lambda: line.status == UP)
        line.send(b"now")

        assert peer.recv(100) == b"now"


def test_output_is_held_for_the_first_client_when_asked(bench: Bench) -> None:
    line, driver = make(bench, tcp, "tcp", hold=True)

    line.send(BIG)
    assert line.to_send
    with connect(driver) as peer:
        received = bytearray()
        reader = read_all(peer, len(BIG), received)
        assert bench.wait(lambda: len(received) == len(BIG))
        reader.join()

    assert received == BIG


def test_what_the_peer_sent_before_it_left_arrives(bench: Bench) -> None:
    line, driver = make(bench, tcp, "tcp")
    line.room = 0
    with connect(driver) as peer:
        peer.sendall(BIG[:200_000])
    bench.wait(lambda: False, 0.1)

    while len(line.taken) < 200_000:
        line.make_room(50_000)
        assert bench.wait(lambda: line.room == 0)

    assert line.taken == BIG[:200_000]
    assert bench.wait(lambda: line.status == DOWN)


def test_client_connects_at_once_or_names_the_server(bench: Bench) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        line, _ = make(bench, tcp, "tcp", role="client", port=port)
        peer, _ = server.accept()
        with peer:
            line.send(b"hello")
            assert peer.recv(100) == b"hello"
    with Bench() as second, pytest.raises(PdmError) as caught:
        make(second, tcp, "tcp", role="client", port=port)
    assert caught.value.status == "VERR_PDM_HIF_OPEN_FAILED"
    assert f"127.0.0.1:{port}" in caught.value.message
    assert "reconnect" in caught.value.remedy


def test_client_connects_again_when_the_server_comes_back(bench: Bench) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    line, _ = make(bench, tcp, "tcp", role="client", port=port, reconnect=0.05)
    bench.wait(lambda: False, 0.15)

    for _ in range(2):
        with socket.create_server(("127.0.0.1", port)) as server:
            server.settimeout(5)
            peer, _ = server.accept()
            with peer:
                peer.sendall(b"here")
                assert bench.wait(lambda: line.taken.endswith(b"here"))
                assert bench.wait(lambda: line.status == UP)
        assert bench.wait(lambda: line.status == DOWN)
        line.taken.clear()


def test_port_that_is_taken_is_named(bench: Bench) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, pytest.raises(PdmError) as caught:
        make(bench, tcp, "tcp", port=server.getsockname()[1])

    assert str(server) not in caught.value.message
    assert "Cannot listen on 127.0.0.1:" in caught.value.message


def test_client_to_port_zero_is_refused(bench: Bench) -> None:
    with pytest.raises(PdmError, match="port 0"):
        make(bench, tcp, "tcp", role="client")


@pytest.mark.parametrize("keys", [{"role": "client", "port": 1}, {"role": "server"}])
def test_name_that_no_host_can_have_is_refused(bench: Bench, keys: dict[str, object]) -> None:
    with pytest.raises(PdmError, match="neither a name nor an address"):
        make(bench, tcp, "tcp", host="x" * 64, **keys)


def test_connection_survives_suspend_and_resume(bench: Bench) -> None:
    line, driver = make(bench, tcp, "tcp")
    with connect(driver) as peer:
        assert bench.wait(lambda: line.status == UP)
        bench.suspend()
        peer.sendall(b"while it slept")
        bench.resume()

        assert bench.wait(lambda: line.taken == b"while it slept")


def test_last_words_are_sent_before_the_end(bench: Bench) -> None:
    line, driver = make(bench, tcp, "tcp")
    with connect(driver) as peer:
        assert bench.wait(lambda: line.status == UP)
        line.send(BIG[:60_000])
        bench.destruct()

        received = bytearray()
        while data := peer.recv(65536):
            received += data

    assert received == BIG[:60_000]


@settings(deadline=None, max_examples=15)
@given(st.lists(st.tuples(st.booleans(), st.binary(max_size=3000), st.integers(0, 2000)), max_size=25))
def test_any_traffic_comes_through_whole_and_in_order(steps: list[tuple[bool, bytes, int]]) -> None:
    with Bench() as bench:
        line, driver = make(bench, tcp, "tcp")
        line.room = 0
        down, up = b"", b""
        received = bytearray()
        with connect(driver) as peer:
            assert bench.wait(lambda: line.status == UP)
            for to_guest, data, room in steps:
                if to_guest:
                    peer.sendall(data)
                    up += data
                else:
                    line.send(data)
                    down += data
                line.make_room(room)
                bench.advance(0)
            line.make_room(1 << 20)
            reader = read_all(peer, len(down), received)
            assert bench.wait(lambda: len(received) == len(down) and len(line.taken) == len(up))
            reader.join()

        assert (received, line.taken, line.overrun) == (down, up, False)
