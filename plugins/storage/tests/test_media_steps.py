from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from vbox_pdm import MediaOp
from vbox_plugin_storage.media_steps import find_fault

UNIT = 512


@given(start=st.integers(0, 3000), length=st.integers(1, 5000), bad=st.integers(0, 16))
def test_find_fault_anywhere_tells_what_went_well_before_the_bad_block(
    start: int, length: int, bad: int
) -> None:
    steps = find_fault(MediaOp.READ, start, (memoryview(bytearray(length)),), UNIT)
    answer: str | None = None
    result = None
    for count in range(200):
        try:
            ask = steps.send(answer) if count else next(steps)
        except StopIteration as end:
            result = end.value
            break
        last = ask.offset + sum(view.nbytes for view in ask.views) - 1
        answer = "VERR_READ_ERROR" if ask.offset // UNIT <= bad <= last // UNIT else None

    first = max(start, bad * UNIT)
    fails = start // UNIT <= bad <= (start + length - 1) // UNIT
    assert result == ((first - start, "VERR_READ_ERROR") if fails else (length, None))
