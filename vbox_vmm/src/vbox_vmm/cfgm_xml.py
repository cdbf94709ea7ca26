"""Configuration trees as XML files.

    <Machine xmlns="urn:vbox-vmm:machine" version="1.0">
      <Value name="RamSize" type="integer" value="134217728"/>
      <Node name="Devices">...</Node>
    </Machine>

Values are attributes, so that white space is kept whatever an editor does to the layout.  An integer
is decimal or 0x..., bytes are hexadecimal digits (spaces allowed).  A string that XML cannot hold
(control characters) is written in base64 with encoding="base64".

Whoever opens a machine file may have got it from a stranger: it is UTF-8, it has no document type
and no entities, nothing is fetched, and its size, depth and number of elements are bounded.
Passwords are never written.
"""

from __future__ import annotations

import base64
import binascii
import logging
import os
import re
import tempfile
from pathlib import Path

from lxml import etree

from vbox_pdm import ConfigError
from vbox_vmm.cfgm import Node, Value, ValueType

log = logging.getLogger("vbox.CFGM")

NAMESPACE = "urn:vbox-vmm:machine"
VERSION = "1.0"
MAX_BYTES = 16 << 20
MAX_DEPTH = 64
MAX_ELEMENTS = 200_000

_ATTRIBUTES = {
    "Machine": frozenset({"version"}),
    "Node": frozenset({"name"}),
    "Value": frozenset({"name", "type", "value", "encoding"}),
}
_INTEGER = re.compile(r"-?[0-9]{1,20}|0[xX][0-9a-fA-F]{1,16}", re.ASCII)
_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def read(path: str | os.PathLike[str]) -> Node:
    """The tree in a file.  Raises ConfigError as `parse`, VERR_FILE_NOT_FOUND, VERR_OPEN_FAILED."""
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise ConfigError(
            "VERR_FILE_NOT_FOUND",
            f"There is no machine file '{path}'",
            "Check its name, or create the machine",
        ) from None
    except OSError as error:
        raise ConfigError(
            "VERR_OPEN_FAILED", f"Cannot read the machine file '{path}': {error.strerror}"
        ) from error
    return parse(data, os.fspath(path))


def parse(data: bytes, source: str = "<machine>") -> Node:
    """The tree in the XML text `data`; `source` names it in errors.

    Raises ConfigError naming source, line, thing and remedy: VERR_PARSE_ERROR for XML and structure,
    VERR_VERSION_MISMATCH, VERR_CFGM_* for names and values.
    """
    if len(data) > MAX_BYTES:
        raise _error(
            source, 1, f"The file is larger than {MAX_BYTES >> 20} MiB", "A machine file is not that large"
        )
    try:
        data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise _error(source, line, "The file is not UTF-8", "Save it as UTF-8") from None
    for word in (b"<!DOCTYPE", b"<!ENTITY"):
        at = data.find(word)
        if at >= 0:
            line = data.count(b"\n", 0, at) + 1
            raise _error(
                source, line, f"{word.decode()} is not allowed", "Remove it and write the values out"
            )
    # The encoding is fixed here because a declared one could hide a document type from the search.
    parser = etree.XMLParser(
        encoding="utf-8",
        resolve_entities=False,
        no_network=True,
        load_dtd=False,
        huge_tree=False,
        remove_comments=True,
        remove_pis=True,
    )
    try:
        machine = etree.fromstring(data, parser)
    except etree.XMLSyntaxError as error:
        raise _error(source, error.lineno or 1, str(error.msg), "Correct the XML") from None
    return _read_machine(machine, source)


def serialize(tree: Node) -> bytes:
    """The XML text of a tree.  Passwords are left out, with a log line for each.

    Raises ConfigError VERR_PARSE_ERROR for a tree that is deeper or larger than `parse` accepts.
    """
    machine = etree.Element(_tag("Machine"), {"version": VERSION}, nsmap={None: NAMESPACE})  # type: ignore[dict-item]
    count = _write_node(machine, tree, 1)
    text = etree.tostring(machine, xml_declaration=True, encoding="utf-8", pretty_print=True)
    if count > MAX_ELEMENTS or len(text) > MAX_BYTES:
        raise ConfigError(
            "VERR_PARSE_ERROR",
            f"The tree has {count} elements, {len(text)} bytes: too large for a machine file",
        )
    return bytes(text)


def write(tree: Node, path: str | os.PathLike[str]) -> None:
    """Write a tree to a file, which at any moment is the old one or the new one, whole.

    A link stays a link; permissions of an existing file are kept.  Raises ConfigError
    VERR_WRITE_ERROR, and as `serialize`.
    """
    data = serialize(tree)
    target = Path(os.path.realpath(path))
    try:
        handle, beside = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
                file.flush()
                if target.exists():
                    os.fchmod(file.fileno(), target.stat().st_mode & 0o777)
                os.fsync(file.fileno())
            os.replace(beside, target)
        except BaseException:
            os.unlink(beside)
            raise
    except OSError as error:
        raise ConfigError(
            "VERR_WRITE_ERROR",
            f"Cannot write the machine file '{path}': {error.strerror}",
            "Check free space and permissions of its folder",
        ) from error


def _read_machine(machine: etree._Element, source: str) -> Node:
    if machine.tag != _tag("Machine"):
        raise _error(
            source, _line(machine), f"The root is {machine.tag}", f'It must be <Machine xmlns="{NAMESPACE}">'
        )
    _check_attributes(machine, "Machine", source)
    version = machine.get("version", "")
    if version.split(".")[0] != VERSION.split(".")[0]:
        raise _error(
            source,
            _line(machine),
            f"The file has version '{version}', this VMM reads {VERSION}",
            "Use the VMM that wrote it, or correct the version attribute",
            "VERR_VERSION_MISMATCH",
        )
    root = Node()
    elements = 0
    todo = [(machine, root, 1)]
    while todo:
        element, node, depth = todo.pop()
        if depth > MAX_DEPTH:
            raise _error(source, _line(element), f"Nodes are nested deeper than {MAX_DEPTH}", "Flatten them")
        _check_no_text(element, source)
        below = []
        for item in element:
            elements += 1
            if elements > MAX_ELEMENTS:
                raise _error(
                    source, _line(item), f"There are more than {MAX_ELEMENTS} elements", "Remove some"
                )
            child = _read_item(item, node, source)
            if child is not None:
                below.append((item, child, depth + 1))
        todo.extend(below)
    return root


def _read_item(item: etree._Element, node: Node, source: str) -> Node | None:
    """Read one <Node> (without what is in it) or <Value> into `node`."""
    kind = {_tag(name): name for name in ("Node", "Value")}.get(str(item.tag))
    if kind is None:
        name = etree.QName(item).localname if isinstance(item.tag, str) else "a reference"
        raise _error(source, _line(item), f"Unknown element {name}", "Elements are <Node> and <Value>")
    _check_attributes(item, kind, source)
    name = _required(item, "name", kind, source)
    try:
        if kind == "Node":
            if "/" in name:
                raise ConfigError("VERR_CFGM_INVALID_NODE_PATH", f"'{name}' is a path", "Nest the nodes")
            return node.insert_node(name)
        _check_no_text(item, source)
        if len(item):
            raise ConfigError("VERR_PARSE_ERROR", f"Value '{name}' has elements in it", "Move them out")
        node.insert(name, _read_value(item, name, source))
    except ConfigError as error:
        if error.message.startswith(source):
            raise
        remedy = error.remedy or "Correct the name or the value, or remove the element"
        raise _error(source, _line(item), error.message, remedy, error.status) from None
    return None


def _read_value(item: etree._Element, name: str, source: str) -> int | str | bytes:
    kind = _required(item, "type", f"Value '{name}'", source)
    text = _required(item, "value", f"Value '{name}'", source)
    encoding = item.get("encoding")
    if encoding is not None and (kind != "string" or encoding != "base64"):
        raise ConfigError(
            "VERR_PARSE_ERROR", f"Value '{name}' has encoding '{encoding}'", "Only strings may have base64"
        )
    if kind == "string":
        if encoding is None:
            return text
        try:
            return base64.b64decode(text, validate=True).decode()
        except (binascii.Error, ValueError):
            raise ConfigError(
                "VERR_PARSE_ERROR", f"Value '{name}' is not base64 of UTF-8", "Correct it"
            ) from None
    if kind == "integer":
        if not _INTEGER.fullmatch(text):
            raise ConfigError(
                "VERR_CFGM_NOT_INTEGER", f"Value '{name}' is '{text}', not an integer", "Write 26 or 0x1a"
            )
        return int(text, 16 if text[:2] in ("0x", "0X") else 10)
    if kind == "bytes":
        try:
            return bytes.fromhex(text)
        except ValueError:
            raise ConfigError(
                "VERR_CFGM_NOT_BYTES", f"Value '{name}' is not hexadecimal", "Write two digits for each byte"
            ) from None
    raise ConfigError(
        "VERR_PARSE_ERROR", f"Value '{name}' has type '{kind}'", "Types are integer, string, bytes"
    )


def _write_node(element: etree._Element, node: Node, depth: int) -> int:
    if depth > MAX_DEPTH:
        raise ConfigError("VERR_PARSE_ERROR", f"{node.path} is nested deeper than {MAX_DEPTH}")
    count = 0
    for name, value in node.values.items():
        if value.type is ValueType.PASSWORD:
            log.warning("CFGM: the password %s%s is not written to the machine file", node.path, name)
            continue
        etree.SubElement(element, _tag("Value"), _value_attributes(name, value))
        count += 1
    for name, child in node.children.items():
        below = etree.SubElement(element, _tag("Node"), {"name": name})
        count += 1 + _write_node(below, child, depth + 1)
    return count


def _value_attributes(name: str, value: Value) -> dict[str, str]:
    data = value.data
    attributes = {"name": name, "type": value.type.value}
    if isinstance(data, bytes):
        attributes["value"] = data.hex()
    elif isinstance(data, str) and _NOT_XML.search(data):
        attributes["value"] = base64.b64encode(data.encode()).decode()
        attributes["encoding"] = "base64"
    else:
        attributes["value"] = str(data)
    return attributes


def _required(item: etree._Element, attribute: str, what: str, source: str) -> str:
    text = item.get(attribute)
    if text is None:
        raise _error(source, _line(item), f"{what} has no {attribute}", f'Add {attribute}="..."')
    return str(text)


def _check_attributes(item: etree._Element, kind: str, source: str) -> None:
    for attribute in map(str, item.attrib):
        if attribute not in _ATTRIBUTES[kind]:
            known = ", ".join(sorted(_ATTRIBUTES[kind]))
            raise _error(
                source, _line(item), f"{kind} has an unknown attribute '{attribute}'", f"Known: {known}"
            )


def _check_no_text(element: etree._Element, source: str) -> None:
    texts = [element.text, *(item.tail for item in element)]
    for text in texts:
        if text is not None and text.strip():
            raise _error(
                source,
                _line(element),
                f"There is text between elements: '{text.strip()[:40]}'",
                "Values stand in value attributes",
            )


def _tag(name: str) -> str:
    return f"{{{NAMESPACE}}}{name}"


def _line(element: etree._Element) -> int:
    line = element.sourceline
    return line if isinstance(line, int) else 1


def _error(source: str, line: int, what: str, remedy: str, status: str = "VERR_PARSE_ERROR") -> ConfigError:
    return ConfigError(status, f"{source}:{line}: {what}", remedy)
