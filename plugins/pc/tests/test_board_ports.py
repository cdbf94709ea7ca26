"""Port 0x92, the coprocessor's ports, the debug console, the exit port."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vbox_pdm import ResetSource
from vbox_pdm.testing import Bench, FakeStream
from vbox_plugin_pc import debugcon, debugexit, pcarch


@pytest.fixture
def bench() -> Bench:
    bench = Bench(ram=1 << 20)
    for module in (pcarch, debugcon, debugexit):
        bench.plugin(module)
    return bench


def test_port92_bit_1_is_the_a20_gate(bench: Bench) -> None:
    bench.add("pcarch")
    assert bench.port_read(0x92, 1) == 0x02
    bench.port_write(0x92, 1, 0x00)
    assert not bench.a20
    assert bench.port_read(0x92, 1) == 0
    bench.port_write(0x92, 1, 0x02)
    assert bench.a20
    assert bench.resets == []


def test_port92_fast_reset_is_an_edge(bench: Bench) -> None:
    bench.add("pcarch")
    bench.port_write(0x92, 1, 0x03)
    bench.port_write(0x92, 1, 0x03)
    assert bench.resets == [(ResetSource.PORT92, False)]
    bench.port_write(0x92, 1, 0x02)
    bench.port_write(0x92, 1, 0x03)
    assert len(bench.resets) == 2


@pytest.mark.parametrize(("code", "soft"), [(0, False), (5, True), (9, True), (10, True), (4, False)])
def test_port92_reset_is_an_init_when_cmos_says_that_firmware_returns(
    bench: Bench, code: int, soft: bool
) -> None:
    bench.add("pcarch")
    bench.cmos[0x0F] = code
    bench.port_write(0x92, 1, 0x01)
    assert bench.resets == [(ResetSource.PORT92, soft)]


def test_port92_after_reset_passes_a20_and_is_ready_for_another_edge(bench: Bench) -> None:
    bench.add("pcarch")
    bench.port_write(0x92, 1, 0x01)
    bench.reset()
    assert bench.port_read(0x92, 1) == 0x02
    bench.port_write(0x92, 1, 0x03)
    assert len(bench.resets) == 2


def test_port92_state_survives_a_load(bench: Bench) -> None:
    bench.add("pcarch")
    bench.port_write(0x92, 1, 0x01)
    saved = bench.save()
    bench.port_write(0x92, 1, 0x02)
    bench.load(saved)
    assert bench.port_read(0x92, 1) == 0x01


@pytest.mark.parametrize(("port", "ignored"), [(0xF0, 1), (0xF1, 0)])
def test_fpu_error_raises_irq_13_until_a_coprocessor_port_is_written(
    bench: Bench, port: int, ignored: int
) -> None:
    bench.add("pcarch")

    bench.fpu_error()
    raised = bench.irq(13)
    bench.port_write(port, 1, 0)

    assert raised
    assert not bench.irq(13)
    assert bench.ignored_fpu_errors == ignored


def test_fpu_error_line_survives_a_load_and_falls_at_reset(bench: Bench) -> None:
    bench.add("pcarch")
    bench.fpu_error()
    saved = bench.save()
    bench.port_write(0xF0, 1, 0)

    bench.load(saved)
    loaded = bench.irq(13)
    bench.reset()

    assert loaded
    assert not bench.irq(13)


def test_fpu_error_without_a_board_that_hears_of_it_has_no_effect(bench: Bench) -> None:
    bench.fpu_error()

    assert bench.irq_edges == []


def test_coprocessor_ports_are_write_only_and_leave_irq_13_low(bench: Bench) -> None:
    bench.add("pcarch")
    for port in (0xF0, 0xF1):
        bench.port_write(port, 1, 0)
        assert bench.port_read(port, 1) == 0xFF
    assert not bench.irq(13)


@pytest.mark.parametrize("config", [{}, {"io_base": 0xE9}])
def test_debugcon_sends_bytes_and_reads_e9(bench: Bench, config: dict) -> None:
    stream = FakeStream()
    bench.add("debugcon", lun0=stream, **config)
    port = config.get("io_base", 0x402)
    for byte in b"SeaBIOS\n":
        bench.port_write(port, 1, byte)
    assert bytes(stream.sent) == b"SeaBIOS\n"
    assert bench.port_read(port, 1) == 0xE9


def test_debugcon_without_a_stream_swallows_everything(bench: Bench) -> None:
    bench.add("debugcon")
    bench.port_write(0x402, 1, 65)
    assert bench.port_read(0x402, 1) == 0xE9


def test_debugcon_keeps_what_a_full_stream_refuses(bench: Bench) -> None:
    stream = FakeStream(accept=2)
    bench.add("debugcon", lun0=stream)
    for byte in b"abcdef":
        bench.port_write(0x402, 1, byte)
    assert bytes(stream.sent) == b"ab"
    saved = bench.save()
    stream.accept = None
    assert bytes(stream.sent) == b"abcdef"
    bench.load(saved)
    bench.port_write(0x402, 1, ord("g"))
    bench.instance("debugcon#0").object.char_sendable()
    assert bytes(stream.sent) == b"abcdefcdefg"


def test_debugcon_backlog_is_bounded(bench: Bench) -> None:
    console = bench.add("debugcon", lun0=FakeStream(accept=0))
    for _ in range(debugcon.BACKLOG + 10):
        console.write(0, 1, 0x41)
    assert len(console.backlog) == debugcon.BACKLOG


def test_debugcon_backlog_goes_to_the_stream_that_takes_it_after_a_load(bench: Bench) -> None:
    bench.add("debugcon", lun0=(stream := FakeStream(accept=0)))
    bench.port_write(0x402, 1, 0x41)
    saved = bench.save()
    stream._accept = None  # without a word: it may be another stream
    bench.load(saved)
    assert bytes(stream.sent) == b"A"


def test_debugcon_backlog_is_gone_with_its_stream(bench: Bench) -> None:
    console = bench.add("debugcon", lun0=FakeStream(accept=0))
    bench.port_write(0x402, 1, 0x41)
    bench.detach(console, 0)
    bench.attach(console, 0, late := FakeStream())
    bench.port_write(0x402, 1, 0x42)
    assert bytes(late.sent) == b"B"


def test_debugcon_two_ports_are_two_instances(bench: Bench) -> None:
    first, second = FakeStream(), FakeStream()
    bench.add("debugcon", lun0=first)
    bench.add("debugcon", lun0=second, io_base=0xE9)
    bench.port_write(0xE9, 1, 66)
    assert (bytes(first.sent), bytes(second.sent)) == (b"", b"B")


@pytest.mark.parametrize(
    ("size", "value", "code"), [(1, 0, 1), (1, 0x10, 0x21), (1, 0xFF, 0xFF), (4, 0x80, 1), (2, 3, 7)]
)
def test_debug_exit_powers_off_with_an_odd_code(bench: Bench, size: int, value: int, code: int) -> None:
    bench.add("isa-debug-exit")
    assert bench.port_read(0xF4, size) == 0
    assert bench.exit_code is None
    bench.port_write(0xF4, size, value)
    assert bench.exit_code == code


def test_debug_exit_answers_only_its_ports(bench: Bench) -> None:
    bench.add("isa-debug-exit", io_base=0x501, size=2)
    bench.port_write(0xF4, 1, 1)
    bench.port_write(0x503, 1, 1)
    assert bench.exit_code is None
    bench.port_write(0x502, 1, 1)
    assert bench.exit_code == 3


@given(
    st.lists(
        st.tuples(
            st.sampled_from([0x92, 0xF0, 0xF1, 0xF4, 0x402]),
            st.sampled_from([1, 2, 4]),
            st.integers(0, 0xFFFFFFFF),
        ),
        max_size=20,
    )
)
@settings(max_examples=50, deadline=None)
def test_board_ports_nonsense_of_any_width_never_raises(accesses: list) -> None:
    bench = Bench(ram=1 << 20)
    for module in (pcarch, debugcon, debugexit):
        bench.plugin(module)
    for name in ("pcarch", "debugcon", "isa-debug-exit"):
        bench.add(name)
    for port, size, value in accesses:
        bench.port_write(port, size, value)
        assert 0 <= bench.port_read(port, size) < 1 << 8 * size
