"""The tutorial for authors of plugins, carried out: its files are written, its commands run, and what it
shows of their output is what they print.

How the page is read:

- A block ```python is a file; the last name of a file in the paragraph before says which.
- A block ```diff changes such a file.
- A block ```console has commands, behind `$ `, and what they print.  Where nothing is shown, nothing is
  compared; `...` stands for anything.  Of a block ```console fails, the commands must fail.
"""

from __future__ import annotations

import re
import subprocess
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import pytest
from attrs import define, frozen
from machines import ROOT, clean_environment, make_venv, run

TUTORIAL = ROOT / "docs" / "plugins" / "tutorial.md"
_BLOCK = re.compile(r"(?ms)^```(\w+)([^\n]*)\n(.*?)^```$")
_FILE = re.compile(r"`([\w./-]+\.\w+)`")


@frozen
class Block:
    """A block of code, and the paragraph before it."""

    language: str
    mark: str
    text: str
    before: str

    @property
    def file(self) -> str:
        """The file that the paragraph before names last."""
        names = _FILE.findall(self.before)
        assert names, f"the paragraph before this block names no file:\n{self.text}"
        return str(names[-1])


def blocks(text: str) -> Iterator[Block]:
    """The blocks of a page in order."""
    last = 0
    for match in _BLOCK.finditer(text):
        before = text[last : match.start()].strip().rpartition("\n\n")[2]
        yield Block(match[1], match[2].strip(), match[3], " ".join(before.split()))
        last = match.end()


def commands(block: Block) -> Iterator[tuple[str, str]]:
    """(command, output that is shown) of a console block."""
    for part in re.split(r"(?m)^\$ ", block.text)[1:]:
        command, _, shown = part.partition("\n")
        yield command, shown


def apply(path: Path, change: str) -> None:
    """Change a file; the lines that are there before must be in it once."""
    old = "".join(line[1:] + "\n" for line in change.splitlines() if line[:1] in " -")
    new = "".join(line[1:] + "\n" for line in change.splitlines() if line[:1] in " +")
    text = path.read_text()
    assert text.count(old) == 1, f"{path} has these lines {text.count(old)} times:\n{old}"
    path.write_text(text.replace(old, new))


def is_as_shown(shown: str, printed: str) -> bool:
    """Whether output is what the page shows: `...` is anything, the width of columns does not count."""

    def plain(text: str) -> str:
        return "\n".join(re.sub(r"[ \t]+", " ", line).strip() for line in text.strip().splitlines())

    pattern = re.escape(plain(shown)).replace(r"\.\.\.", "(?s:.*)")
    return re.fullmatch(pattern, plain(printed)) is not None


@define
class Shell:
    """A reader's shell: `cd` and `activate` last from one command to the next."""

    folder: Path
    process: subprocess.Popen[str]

    @classmethod
    def start(cls, folder: Path) -> Shell:
        environment = clean_environment() | {
            "COLUMNS": "200",
            "LC_ALL": "C.UTF-8",
            # Our distributions are found where they are (see `reader`); hatchling, too, for building the
            # reader's.  The index is not asked, so that this is what the tests see, and not a release.
            "PIP_NO_INDEX": "1",
            "PIP_NO_BUILD_ISOLATION": "0",  # pip reads "no isolation: no" as --no-build-isolation
            "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        }
        process = subprocess.Popen(
            ["bash", "--noprofile", "--norc"],
            cwd=folder,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
        return cls(folder, process)

    def run(self, command: str) -> tuple[int, str]:
        """The status of a command, and what it printed."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        mark = "--- end of the command "
        words = f"{{ {command}\n}} </dev/null; status=$?; echo; echo '{mark}'$status\n"
        self.process.stdin.write(words)
        self.process.stdin.flush()
        lines: list[str] = []
        for line in self.process.stdout:
            if line.startswith(mark):
                return int(line.removeprefix(mark)), "".join(lines).removesuffix("\n")
            lines.append(line)
        raise AssertionError(f"the shell ended in {command}:\n{''.join(lines)}")


@pytest.fixture
def reader(tmp_path: Path) -> Iterator[Shell]:
    """A shell in an empty folder, but for the environment that the reader makes first of all.

    It sees our packages through a .pth file, as if pip had installed them; the commands that pip would
    have made with them are made here.  Nothing is downloaded, and what the reader installs goes into
    that environment alone."""
    python = make_venv(tmp_path / "venv")
    site = run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip()
    Path(site, "vbox.pth").write_text(f"import site; site.addsitedir({sysconfig.get_path('purelib')!r})\n")
    for name, module in (("vbox", "vbox_vmm"), ("pytest", "pytest")):
        script = python.parent / name
        script.write_text(f'#!/bin/sh\nexec "{python}" -m {module} "$@"\n')
        script.chmod(0o755)
    shell = Shell.start(tmp_path)
    yield shell
    shell.process.kill()
    shell.process.wait()


def carry_out(block: Block, shell: Shell) -> None:
    """Do what a block says."""
    if block.language == "python":
        path = shell.folder / block.file
        assert path.parent.is_dir(), f"{block.file} is to be written where no folder is"
        path.write_text(block.text)
    elif block.language == "diff":
        apply(shell.folder / block.file, block.text)
    else:
        assert block.language == "console", f"nobody knows what to do with a block of {block.language}"
        for command, shown in commands(block):
            status, printed = shell.run(command)
            if block.mark == "fails":
                assert status != 0, f"{command} did not fail, and printed:\n{printed}"
            else:
                assert status == 0, f"{command} ended with {status}, and printed:\n{printed}"
            if shown:
                assert is_as_shown(shown, printed), f"{command} printed:\n{printed}\ninstead of:\n{shown}"


@pytest.mark.timeout(900)
def test_tutorial_is_carried_out_and_prints_what_it_shows(reader: Shell) -> None:
    found = list(blocks(TUTORIAL.read_text()))

    for block in found:
        carry_out(block, reader)

    assert {block.language for block in found} == {"console", "python", "diff"}


@pytest.mark.parametrize(
    ("shown", "printed", "expected"),
    [
        ("one\ntwo\n", "one\ntwo\n", True),
        ("one\n", "one\ntwo\n", False),
        ("one\n...\n", "one\ntwo\nthree\n", True),
        ("...\n3 passed in ...\n", "dots\n3 passed in 0.1s\n", True),
        ("...\n3 passed in ...\n", "dots\n2 passed in 0.1s\n", False),
        ("a  b\n", "a      b   \n", True),
    ],
)
def test_output_is_compared_up_to_what_may_differ(shown: str, printed: str, expected: bool) -> None:
    assert is_as_shown(shown, printed) is expected
