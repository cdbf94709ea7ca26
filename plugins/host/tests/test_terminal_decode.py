"""What a terminal sends, as keys."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vbox_plugin_host import us_layout
from vbox_plugin_host.terminal_decode import KeyDecoder, Stroke, pressed

SHIFT, CONTROL, ALT, ESCAPE = 0xE1, 0xE0, 0xE2, 0x29
UP, DOWN, RIGHT, LEFT = 0x52, 0x51, 0x4F, 0x50


def decode(data: bytes) -> list[Stroke]:
    decoder = KeyDecoder()
    events = decoder.feed(data)
    return events + (decoder.flush() if decoder.waiting else [])


@pytest.mark.parametrize(
    ("data", "usage", "modifiers"),
    [
        (b"\x1b[A", UP, []), (b"\x1bOB", DOWN, []), (b"\x1b[C", RIGHT, []), (b"\x1bOD", LEFT, []),
        (b"\x1b[H", 0x4A, []), (b"\x1b[1~", 0x4A, []), (b"\x1b[7~", 0x4A, []), (b"\x1bOH", 0x4A, []),
        (b"\x1b[F", 0x4D, []), (b"\x1b[4~", 0x4D, []), (b"\x1b[8~", 0x4D, []),
        (b"\x1b[2~", 0x49, []), (b"\x1b[3~", 0x4C, []), (b"\x1b[5~", 0x4B, []), (b"\x1b[6~", 0x4E, []),
        (b"\x1bOP", 0x3A, []), (b"\x1bOS", 0x3D, []), (b"\x1b[15~", 0x3E, []), (b"\x1b[17~", 0x3F, []),
        (b"\x1b[21~", 0x43, []), (b"\x1b[23~", 0x44, []), (b"\x1b[24~", 0x45, []),
        (b"\x1b[[A", 0x3A, []), (b"\x1b[[E", 0x3E, []), (b"\x1b[11~", 0x3A, []),
        (b"\x1b[1;5A", UP, [CONTROL]), (b"\x1b[1;2C", RIGHT, [SHIFT]), (b"\x1b[3;3~", 0x4C, [ALT]),
        (b"\x1b[1;8P", 0x3A, [CONTROL, ALT, SHIFT]), (b"\x1b[Z", 0x2B, [SHIFT]), (b"\x1b\x1b[A", UP, [ALT]),
        (b"\x1bx", 0x1B, [ALT]), (b"\x1bX", 0x1B, [ALT, SHIFT]), (b"\x1b\x03", 0x06, [ALT, CONTROL]),
        (b"\x1b[", 0x2F, [ALT]), (b"\x1bO", 0x12, [ALT, SHIFT]),
        (b"\r", 0x28, []), (b"\x7f", 0x2A, []), (b"\x08", 0x2A, []), (b"\t", 0x2B, []), (b"\x1b", ESCAPE, []),
        (b"\x03", 0x06, [CONTROL]), (b"\x00", 0x2C, [CONTROL]), (b"\x1c", 0x31, [CONTROL]),
    ],
)  # fmt: skip
def test_key_of_the_terminal_is_one_key_with_its_modifiers(
    data: bytes, usage: int, modifiers: list[int]
) -> None:
    assert decode(data) == pressed(usage, modifiers)


@pytest.mark.parametrize(
    "data",
    [
        b"\x1b[99~",
        b"\x1b[<0;1;1M",
        b"\x1b[?1;2c",
        b"\x1b[200~",
        b"\xff\xfe",
        "ä€".encode(),
        b"\x1b[1;",
        b"\x1b[[",
    ],
)
def test_what_is_no_key_is_dropped(data: bytes) -> None:
    assert decode(data) == []


def test_escape_twice_and_thrice_is_as_many_escapes() -> None:
    assert decode(b"\x1b\x1b") == pressed(ESCAPE) * 2
    assert decode(b"\x1b\x1b\x1b") == pressed(ESCAPE) * 3


def test_key_after_a_broken_sequence_is_not_lost() -> None:
    assert decode(b"\x1b[1;\ra") == us_layout.strokes("\ra")
    assert decode(b"\x1b[1" + b"2" * 100 + b"a")[-2:] == us_layout.strokes("a")


@settings(max_examples=60, deadline=None)
@given(st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), max_size=40))
def test_text_is_typed_as_by_the_keyboard_queue(text: str) -> None:
    assert decode(text.encode()) == us_layout.strokes(text)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(
        st.one_of(
            st.binary(max_size=8),
            st.sampled_from(
                [b"\x1b[A", b"\x1bOP", b"\x1b[1;5C", b"\x1b", b"\x1b[", "ä".encode(), b"\x1b[[A"]
            ),
        ),
        max_size=20,
    ),
    st.data(),
)
def test_any_bytes_give_keys_that_are_released_however_they_are_cut(
    pieces: list[bytes], data: st.DataObject
) -> None:
    stream = b"".join(pieces)
    whole, cut = KeyDecoder(), KeyDecoder()

    events: list[Stroke] = []
    rest = stream
    while rest:
        size = data.draw(st.integers(1, len(rest)))
        events += cut.feed(rest[:size])
        rest = rest[size:]
    expected = whole.feed(stream) + whole.flush()
    events += cut.flush()

    assert events == expected
    held: set[int] = set()
    for usage, down in events:
        assert 4 <= usage <= 0xE7
        assert (usage in held) is not down
        (held.add if down else held.remove)(usage)
    assert not held
    assert not cut.waiting
