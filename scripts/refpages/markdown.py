"""Pages of Markdown: headings with anchors, tables, docstrings, and links from names to their sections.

A page is built of texts as docstrings have them: `code` in backquotes, paragraphs, indented blocks.  What
Markdown would misread is escaped when the page is rendered, and a name in backquotes that some page
explains becomes a link to it.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Mapping, Sequence

from attrs import define, field, frozen

_CODE = re.compile(r"(`[^`\n]+`)")
_STATUS = re.compile(r"(?<![\w`])(V(?:ERR|INF|WRN)_[A-Z0-9_*]+[A-Z0-9*])")
_SPECIAL = re.compile(r"(\*|<(?=[A-Za-z/!])|\\(?=[^\w\s]))")
_MODULE = re.compile(r"^(?:[a-z_]+\.)+(?=[A-Z])")
_CALL = re.compile(r"\(.*\)$")


@frozen
class Place:
    """A section of a page."""

    page: str
    anchor: str


@frozen
class _Block:
    """Something of a page; `place` is the section that it stands in."""

    kind: str
    content: object
    anchor: str


@define
class Names:
    """Where each name is explained."""

    places: dict[str, list[Place]] = field(factory=dict)

    def add(self, name: str, place: Place) -> None:
        """`name` is explained at `place`, too."""
        self.places.setdefault(name, []).append(place)

    def find(self, text: str, page: str) -> Place | None:
        """Where the thing that `text` names is explained; on that page, if it is."""
        name = _CALL.sub("", text)
        found = self.places.get(name) or self.places.get(_MODULE.sub("", name), [])
        return next((place for place in found if place.page == page), found[0] if found else None)


@define
class Page:
    """A page of the reference: `title`, and one sentence that says what it is."""

    file: str
    title: str
    purpose: str
    names: Names
    blocks: list[_Block] = field(factory=list)
    _anchors: dict[str, int] = field(factory=dict)
    _anchor: str = ""

    def heading(self, level: int, text: str, *names: str) -> None:
        """Begin a section that explains `names`."""
        self._anchor = self._slug(text)
        self.blocks.append(_Block("heading", f"{'#' * level} {text}", self._anchor))
        self.define(*names)

    def define(self, *names: str) -> None:
        """The section that was begun last explains `names`, too."""
        for name in names:
            self.names.add(name, Place(self.file, self._anchor))

    def text(self, text: str) -> None:
        """Paragraphs and indented blocks, as a docstring has them."""
        if text:
            self.blocks.append(_Block("text", text, self._anchor))

    def code(self, language: str, text: str) -> None:
        """A block of code."""
        self.blocks.append(_Block("raw", f"```{language}\n{text.rstrip()}\n```", self._anchor))

    def table(self, headers: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """A table; columns in which nothing stands are left out."""
        used = [at for at in range(len(headers)) if at == 0 or any(row[at] for row in rows)]
        if rows:
            lines = [[headers[at] for at in used], *([row[at] for at in used] for row in rows)]
            self.blocks.append(_Block("table", lines, self._anchor))

    def render(self) -> str:
        """The page as a file has it."""
        parts = [f"# {self.title}", _prose(self.purpose, self.names, Place(self.file, ""))]
        for block in self.blocks:
            here = Place(self.file, block.anchor)
            if block.kind == "text":
                parts += _paragraphs(str(block.content), self.names, here)
            elif block.kind == "table":
                assert isinstance(block.content, list)
                parts.append(_table(block.content, self.names, here))
            else:
                parts.append(str(block.content))
        return "\n\n".join(parts) + "\n"

    def _slug(self, heading: str) -> str:
        """The anchor that GitHub makes of a heading."""
        slug = slug_of(heading)
        count = self._anchors.get(slug, 0)
        self._anchors[slug] = count + 1
        return f"{slug}-{count}" if count else slug


def slug_of(heading: str) -> str:
    """The anchor of a heading, before its repetitions are numbered."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def code(text: str) -> str:
    """`text` in backquotes; nothing for nothing."""
    return f"`{text}`" if text else ""


def first_sentence(text: str) -> str:
    """The first sentence of a docstring, on one line."""
    paragraph = " ".join(text.split("\n\n")[0].split())
    match = re.match(r"(.+?[.:])(?: [A-Z`]|$)", paragraph)
    return (match[1] if match else paragraph).rstrip(":")


def one_line(text: str) -> str:
    """A whole docstring on one line, for the cell of a table."""
    return " ".join(text.split())


def _paragraphs(text: str, names: Names, here: Place) -> list[str]:
    """The paragraphs of a docstring; those that are indented by four or more are code."""
    found: list[str] = []
    block: list[str] = []
    for chunk in [*re.split(r"\n[ \t]*\n", text.strip("\n")), ""]:
        if chunk.startswith("    "):
            block.append(chunk)
            continue
        if block:
            shown = textwrap.dedent("\n\n".join(block))
            found.append(f"```{_language(shown)}\n{shown}\n```")
            block = []
        if chunk:
            found.append(_prose(one_line(chunk), names, here))
    return found


def _language(block: str) -> str:
    if block.startswith(">>>"):
        return "pycon"
    return "toml" if block.startswith("[") else "python"


def _table(rows: Sequence[Sequence[str]], names: Names, here: Place) -> str:
    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cells) + " |"

    head, *body = rows
    lines = [line(head), line(["---"] * len(head))]
    for row in body:
        lines.append(line([_cell(cell, names, here, link=at > 0) for at, cell in enumerate(row)]))
    return "\n".join(lines)


def _cell(text: str, names: Names, here: Place, *, link: bool) -> str:
    """A cell; the first of a row says what the row is about and links to nothing by itself."""
    return _prose(one_line(text), names if link else Names(), here).replace("|", "\\|")


def _prose(text: str, names: Names, here: Place) -> str:
    """Escaped, with status names as code, and names linked."""
    found = []
    for part in _CODE.split(text):
        if part.startswith("`"):
            found.append(_linked(part, names, here))
            continue
        for index, piece in enumerate(_STATUS.split(part)):
            found.append(code(piece) if index % 2 else _SPECIAL.sub(r"\\\1", piece))
    return "".join(found)


def _linked(span: str, names: Names, here: Place) -> str:
    place = names.find(span.strip("`"), here.page)
    if place is None or place == here:
        return span
    page = "" if place.page == here.page else place.page
    anchor = f"#{place.anchor}" if place.anchor else ""
    return f"[{span}]({page}{anchor})" if page or anchor else span


def contents(pages: Mapping[str, str]) -> list[tuple[str, str, str]]:
    """(file, title, first paragraph) of pages as files have them."""
    found = []
    for file, text in pages.items():
        title, _, rest = text.partition("\n")
        found.append((file, title.removeprefix("# "), rest.strip().split("\n\n")[0].replace("\n", " ")))
    return found
