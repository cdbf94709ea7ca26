#!/usr/bin/env python3
"""Writes docs/plugins/reference from the code: python scripts/reference.py [--check]

The pages say what docstrings, signatures, configuration keys and the command line say; whoever wants
them to say something else edits those.  With --check nothing is written: it fails, naming them, when
a page is out of date or something has no docstring or help text.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from refpages import bench, cli, contract, devices
from refpages.author import Author
from refpages.markdown import Names, Page, contents

FOLDER = Path(__file__).parent.parent / "docs" / "plugins" / "reference"
NOTE = "<!-- Made by scripts/reference.py from the code: edit docstrings and help texts there. -->\n\n"


def pages() -> tuple[dict[str, str], Author]:
    """The text of each page by its file name, and who wrote them."""
    author = Author()
    types = devices.own_types()
    contract.hooks(author)
    contract.types(author)
    contract.host_helpers(author)
    contract.traffic(author, devices.users_of_layers(types))
    contract.guest_regions(author)
    contract.register_maps(author)
    contract.configuration(author)
    contract.saved_states(author)
    contract.pci_functions(author)
    contract.clocks(author)
    contract.threads(author)
    contract.engines(author)
    bench.the_bench(author)
    cli.command_line(author)
    devices.devices(author, types)
    made = {page.file: page.render() for page in author.pages}
    made["README.md"] = _index(made)
    return {file: NOTE + text for file, text in made.items()}, author


def _index(made: dict[str, str]) -> str:
    """The page that leads to the others, also to those in the folder that were written by hand."""
    others = sorted(path for path in FOLDER.glob("*.md") if path.name not in (*made, "README.md"))
    by_hand = {path.name: path.read_text() for path in others if not path.read_text().startswith(NOTE)}
    page = Page("README.md", "Reference", "Everything that a plugin may use, page by page.", Names())
    rows = [(f"[{title}]({file})", what) for file, title, what in contents({**made, **by_hand})]
    page.table(("Page", "What it has"), rows)
    return page.render()


def outdated(made: dict[str, str]) -> list[str]:
    """The files that are not what they should be, or should not be there."""
    found = [file for file, text in made.items() if _read(FOLDER / file) != text]
    left = [path for path in FOLDER.glob("*.md") if path.name not in made]
    return sorted(found + [path.name for path in left if path.read_text().startswith(NOTE)])


def _read(path: Path) -> str | None:
    return path.read_text() if path.is_file() else None


def main() -> int:
    """Write the pages, or check them."""
    parser = argparse.ArgumentParser(description="Write docs/plugins/reference from the code.")
    parser.add_argument(
        "--check", action="store_true", help="write nothing; fail when something is out of date"
    )
    check = parser.parse_args().check
    try:
        made, author = pages()
    except devices.Unusable as error:
        print(f"reference: {error}", file=sys.stderr)
        return 1
    old = outdated(made)
    for name in author.undocumented:
        print(f"reference: {name} has no docstring or help text", file=sys.stderr)
    if check:
        for file in old:
            print(
                f"reference: {FOLDER.name}/{file} is out of date; run scripts/reference.py", file=sys.stderr
            )
    else:
        FOLDER.mkdir(parents=True, exist_ok=True)
        for file in old:
            if file in made:
                (FOLDER / file).write_text(made[file])
            else:
                (FOLDER / file).unlink()
    return 1 if author.undocumented or (check and old) else 0


if __name__ == "__main__":
    sys.exit(main())
