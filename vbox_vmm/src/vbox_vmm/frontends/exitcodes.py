"""The exit codes of `vbox`."""

from __future__ import annotations

SUCCESS, ERROR, USAGE, EXPECTATION, GURU = 0, 1, 2, 3, 4
INTERRUPTED = 130
"""128 + SIGINT; other signals likewise."""

EXIT_CODES = (
    (str(SUCCESS), "the guest powered off, or the last --expect of the script was met"),
    (str(ERROR), "an error: bad input, or the machine cannot start"),
    (str(USAGE), "the command line is wrong"),
    (str(EXPECTATION), "--timeout is over, or the guest ended before an --expect was met"),
    (str(GURU), "guru meditation, or an error that stopped the guest"),
    (str(INTERRUPTED), "Ctrl-C (128 + the signal's number for other signals)"),
    ("other", "what the guest gave to isa-debug-exit"),
)
"""(code, meaning), for --help and documentation."""
