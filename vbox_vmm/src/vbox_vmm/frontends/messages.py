"""What the command line tells people: lines on standard error, log lines, tables, JSON.

While a guest has the terminal in raw mode a line feed alone does not return the carriage, so lines
for a terminal end with both.  While the guest's screen is drawn in the terminal, lines wait.
"""

from __future__ import annotations

import json
import logging
import sys
import traceback
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

LEVELS = ("debug", "info", "warning", "error")
DEFAULT_LEVEL = "warning"
REPORT = "!!!!"
"""How the VM's reports begin; the front end tells what they mean itself."""


MOST_HELD = 1000
"""Texts that wait at most; the oldest are dropped."""
_held: deque[str] | None = None


def hold() -> None:
    """Keep lines for a terminal until `release`: it shows the guest's screen."""
    global _held
    if _held is None and _is_terminal():
        _held = deque(maxlen=MOST_HELD)


def release() -> bool:
    """Print what waits, and keep nothing from now on; whether lines were kept."""
    global _held
    waiting, _held = _held, None
    for text in waiting or ():
        say(text)
    return waiting is not None


def progress(text: str) -> None:
    """A line for people who wait: only at a terminal."""
    if _is_terminal():
        say(f"vbox: {text}")


def _is_terminal() -> bool:
    try:
        return sys.stderr.isatty()
    except ValueError:
        return False  # closed


def say(text: str) -> None:
    """One or more lines on standard error."""
    held = _held
    if held is not None:
        held.append(text)
        return
    stream = sys.stderr
    try:
        end = "\r\n" if stream.isatty() else "\n"
        stream.write(text.replace("\n", end) + end)
        stream.flush()
    except (OSError, ValueError):
        pass  # nobody listens


def complain(text: str) -> None:
    """`vbox: text` in one line."""
    say(f"vbox: {' '.join(text.split())}")


class _Lines(logging.Handler):
    def __init__(self, terse: bool) -> None:
        super().__init__()
        if terse:
            self.addFilter(lambda record: not str(record.getMessage()).startswith(REPORT))

    def emit(self, record: logging.LogRecord) -> None:
        try:
            say(self.format(record))
        except Exception:
            self.handleError(record)


class _Formatter(logging.Formatter):
    """`vbox: warning: text`; tracebacks only for --debug, reports of many lines only when asked."""

    def __init__(self, terse: bool, tracebacks: bool) -> None:
        super().__init__()
        self._terse = terse
        self._tracebacks = tracebacks

    def format(self, record: logging.LogRecord) -> str:
        text = record.getMessage()
        lines = text.splitlines() or [""]
        if self._terse and len(lines) > 1:
            text = next((line for line in lines if line.strip("! ")), "") + " (--log-level info tells more)"
        text = f"vbox: {record.levelname.lower()}: {text}"
        if record.exc_info and record.exc_info[1] is not None and self._tracebacks:
            text += "\n" + "".join(traceback.format_exception(record.exc_info[1])).rstrip()
        return text


@contextmanager
def logging_to_stderr(level: str | None, debug: bool) -> Iterator[None]:
    """The release log on standard error while it lasts; `level` None is the default."""
    logger = logging.getLogger("vbox")
    terse = level is None and not debug
    handler = _Lines(terse)
    handler.setFormatter(_Formatter(terse, debug))
    before, propagate = logger.level, logger.propagate
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG if debug else (level or DEFAULT_LEVEL).upper())
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before)
        logger.propagate = propagate


def print_json(value: object) -> None:
    """JSON on standard output."""
    print(json.dumps(value, indent=2, ensure_ascii=False))


def print_table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table on standard output: as wide as the terminal, or as wide as it must be in a pipe."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    for header in headers:
        table.add_column(header, overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    wide = None if sys.stdout.isatty() else 1000
    Console(file=sys.stdout, width=wide, highlight=False).print(table)
