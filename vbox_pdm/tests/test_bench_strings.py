"""REP INS and REP OUTS on the bench, and files of the host."""

from __future__ import annotations

import pytest

from vbox_pdm import Device, NoConfig, PdmError, Ports, hookimpl
from vbox_pdm.testing import Bench


class Fifo(Device[NoConfig]):
    """A port whose string handlers serve three items at most."""

    def pdm_construct(self) -> None:
        self.calls: list[str] = []
        self.taken = bytearray()
        self.next = 0
        self.helpers.map_ports(
            0x300,
            Ports(
                "fifo", 4, self.read, self.write, read_string=self.read_string, write_string=self.write_string
            ),
        )

    def read(self, offset: int, size: int) -> int:
        self.calls.append("read")
        return int.from_bytes(self.bytes(size), "little")

    def read_string(self, offset: int, size: int, count: int) -> bytes:
        self.calls.append("read_string")
        return self.bytes(size * min(count, 3))

    def bytes(self, length: int) -> bytes:
        self.next += length
        return bytes(at & 0xFF for at in range(self.next - length, self.next))

    def write(self, offset: int, size: int, value: int) -> None:
        self.calls.append("write")
        self.taken += value.to_bytes(size, "little")

    def write_string(self, offset: int, size: int, data: bytes) -> int:
        self.calls.append("write_string")
        self.taken += data[: 3 * size]
        return min(len(data), 3 * size)


class FromFile(Device[NoConfig]):
    """Reads a file."""

    def pdm_construct(self) -> None:
        self.data = self.helpers.read_host_file("rom.bin", most=4)


def test_read_string_goes_through_the_string_handler(bench: Bench) -> None:
    fifo = bench.add(Fifo)

    data = bench.port_read_string(0x300, 2, 7)

    assert data == bytes(range(14))
    assert fifo.calls == ["read_string", "read_string", "read"]


def test_write_string_goes_through_the_string_handler(bench: Bench) -> None:
    fifo = bench.add(Fifo)

    bench.port_write_string(0x300, 1, b"abcdefg")

    assert fifo.taken == b"abcdefg"
    assert fifo.calls == ["write_string", "write_string", "write"]


def test_wrapped_region_sees_each_item(bench: Bench) -> None:
    seen: list[int] = []

    class Wrapper:
        @hookimpl
        def pdm_wrap_region(self, instance: object, region: Ports) -> Ports:
            def read(offset: int, size: int) -> int:
                seen.append(size)
                return region.read(offset, size)

            return region.with_handlers(read=read)

    bench.plugin(Wrapper())
    bench.add(Fifo)

    data = bench.port_read_string(0x300, 1, 4)

    assert data == bytes(range(4))
    assert seen == [1] * 4


def test_host_file_is_what_the_bench_was_given(bench: Bench) -> None:
    with Bench(files={"rom.bin": b"abcd"}, backend=type(bench.backend)) as other:
        assert other.add(FromFile).data == b"abcd"


@pytest.mark.parametrize(
    ("files", "status"), [({}, "VERR_FILE_NOT_FOUND"), ({"rom.bin": b"abcde"}, "VERR_FILE_TOO_BIG")]
)
def test_host_file_that_is_missing_or_too_big_is_refused(
    bench: Bench, files: dict[str, bytes], status: str
) -> None:
    with (
        Bench(files=files, backend=type(bench.backend)) as other,
        pytest.raises(PdmError, match=status),
    ):
        other.add(FromFile)
