"""One handle for scattered memory is what a handle for each piece would be."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vbox_pdm import Device, NoConfig, PciIdentity
from vbox_pdm.testing import Bench

MIB = 1 << 20
ADDRESSES = st.one_of(
    st.integers(0, 2 * MIB), st.integers(0x9F000, 0x102000), st.integers(0xFFFF_0000, 1 << 32)
)
PIECES = st.lists(st.tuples(ADDRESSES, st.integers(0, 9000)), max_size=6)


class Master(Device[NoConfig]):
    """A PCI function that does what the test says."""

    def pdm_construct(self) -> None:
        self.pci = self.helpers.pci(PciIdentity(1, 2, class_code=0x0C0000))


def enabled(bench: Bench) -> Master:
    master = bench.add(Master)
    bench.pci_enable(master)
    return master


@given(PIECES)
def test_list_reads_what_single_handles_read(pieces: list[tuple[int, int]]) -> None:
    with Bench(ram=2 * MIB) as bench:
        master = enabled(bench)
        bench.memory_write(0, bytes(at * 7 & 0xFF for at in range(256)) * (2 * MIB // 256))
        single = [master.pci.dma(*piece) for piece in pieces]
        expected = b"".join(bytes(view) for handle in single for view in handle.views)
        complete = all(handle.complete for handle in single)

        with master.pci.dma_list(pieces) as views:
            data = b"".join(views)
        handle = master.helpers.dma_list(pieces)

        assert data == expected
        assert len(data) == sum(length for _, length in pieces)
        assert handle.complete == complete


@given(PIECES)
def test_list_writes_what_single_handles_write(pieces: list[tuple[int, int]]) -> None:
    results = []
    for together in (False, True):
        with Bench(ram=2 * MIB) as bench:
            master = enabled(bench)
            handles = (
                [master.pci.dma_list(pieces, write=True)]
                if together
                else [master.pci.dma(*piece, write=True) for piece in pieces]
            )
            number = 0
            for handle in handles:
                for view in handle.views:
                    view[:] = bytes(number + at & 0xFF for at in range(len(view)))
                    number += len(view)
                handle.release()
            results.append((bench.memory_read(0, 2 * MIB), list(bench.dma_written)))

    assert results[0] == results[1]


def test_list_without_bus_mastering_is_scratch(bench: Bench) -> None:
    master = bench.add(Master)
    bench.power_on()

    handle = master.pci.dma_list([(0x1000, 16), (0x3000, 8)], write=True)

    assert not handle.complete
    assert b"".join(handle.views) == b"\xff" * 24
    for view in handle.views:
        view[:] = bytes(len(view))
    handle.release()
    assert bench.memory_read(0x1000, 16) == bytes(16)
    assert bench.dma_written == []


def test_views_of_a_list_end_with_it(bench: Bench) -> None:
    master = enabled(bench)

    with master.pci.dma_list([(0x1000, 16), (0x3000, 8)]) as views:
        kept = views

    with pytest.raises(ValueError, match="released"):
        bytes(kept[0])
