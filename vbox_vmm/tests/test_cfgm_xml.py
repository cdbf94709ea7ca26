"""Machine files: round trip, hostile files, errors that say where."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vbox_pdm import ConfigError
from vbox_vmm import cfgm_xml
from vbox_vmm.cfgm import Node

HEAD = '<Machine xmlns="urn:vbox-vmm:machine" version="1.0">'
NAMES = st.text(
    st.characters(exclude_characters="/\ufffe\uffff", exclude_categories=["Cs", "Cc"]), min_size=1, max_size=8
)
TEXTS = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=12)
ITEMS = st.lists(
    st.tuples(st.lists(NAMES, max_size=3), NAMES, st.integers(0, 2**64 - 1) | TEXTS | st.binary(max_size=12)),
    max_size=8,
)


def parse(body: str) -> Node:
    return cfgm_xml.parse(f"{HEAD}{body}</Machine>".encode(), "vm.xml")


@given(items=ITEMS)
def test_serialize_any_tree_parses_back_equal(items: list[tuple[list[str], str, int | str | bytes]]) -> None:
    tree = Node()
    for path, name, value in items:
        (tree.ensure_node("/".join(path)) if path else tree).replace(name, value)

    text = cfgm_xml.serialize(tree)

    assert cfgm_xml.parse(text).equals(tree)
    assert cfgm_xml.serialize(cfgm_xml.parse(text)) == text


@given(data=st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_parse_any_bytes_raises_nothing_but_config_error(data: bytes) -> None:
    for text in (data, HEAD.encode() + data + b"</Machine>"):
        try:
            cfgm_xml.parse(text)
        except ConfigError as error:
            assert error.message.startswith("<machine>:")  # noqa: PT017 (it need not be raised)


def test_parse_hand_written_file_reads_all_types() -> None:
    tree = parse(
        """
        <!-- RAM -->
        <Value name="RamSize" type="integer" value="0x8000000"/>
        <Node name="a"><Node name="b"><Value name="mac" type="bytes" value="08 00 27"/></Node></Node>
        <Value name="Text" type="string" value="two&#10;lines"/>"""
    )
    assert tree.query_integer("RamSize") == 128 << 20
    assert tree.query_bytes("a/b/mac") == b"\x08\x00\x27"
    assert tree.query_string("Text") == "two\nlines"


@pytest.mark.parametrize(
    ("body", "status", "word"),
    [
        ('\n<Value name="a" type="integer" value="x"/>', "VERR_CFGM_NOT_INTEGER", "'x'"),
        (
            '\n<Value name="a" type="integer" value="18446744073709551616"/>',
            "VERR_CFGM_INTEGER_TOO_BIG",
            "'a'",
        ),
        ('\n<Value name="a" type="bytes" value="abc"/>', "VERR_CFGM_NOT_BYTES", "'a'"),
        ('\n<Value name="a" type="float" value="1"/>', "VERR_PARSE_ERROR", "'float'"),
        ('\n<Value name="a" value="1"/>', "VERR_PARSE_ERROR", "type"),
        ('\n<Value name="a" type="integer"/>', "VERR_PARSE_ERROR", "value"),
        ('\n<Value name="a" type="integer" value="1" encoding="base64"/>', "VERR_PARSE_ERROR", "encoding"),
        ('\n<Value name="a" type="string" value="*" encoding="base64"/>', "VERR_PARSE_ERROR", "base64"),
        ('\n<Value name="a" type="integer" value="1">x</Value>', "VERR_PARSE_ERROR", "text"),
        ('\n<Value name="a" type="integer" value="1"><Node name="x"/></Value>', "VERR_PARSE_ERROR", "'a'"),
        ("\n<Node/>", "VERR_PARSE_ERROR", "name"),
        ('\n<Node name="a/b"/>', "VERR_CFGM_INVALID_NODE_PATH", "a/b"),
        ('\n<Node name=""/>', "VERR_CFGM_INVALID_NODE_PATH", ""),
        ('<Node name="a"/>\n<Node name="a"/>', "VERR_CFGM_NODE_EXISTS", "'a'"),
        (
            '<Value name="a" type="integer" value="1"/>\n<Value name="a" type="string" value=""/>',
            "VERR_CFGM_LEAF_EXISTS",
            "'a'",
        ),
        ("\n<Frob/>", "VERR_PARSE_ERROR", "Frob"),
        ('\n<Node name="a" nmae="b"/>', "VERR_PARSE_ERROR", "nmae"),
        ('\n<Node name="a"', "VERR_PARSE_ERROR", ""),
        ('\n<Value name="a" type="string" value="&x;"/>', "VERR_PARSE_ERROR", "x"),
    ],
)
def test_parse_wrong_content_names_file_line_and_thing(body: str, status: str, word: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(body)
    assert caught.value.status == status
    assert caught.value.message.startswith("vm.xml:2: ")
    assert word in caught.value.message
    assert caught.value.remedy or status != "VERR_PARSE_ERROR"


@pytest.mark.parametrize(
    "text",
    [
        '<!DOCTYPE Machine [<!ENTITY x "y">]>' + HEAD + "</Machine>",
        '<!DOCTYPE Machine SYSTEM "file:///etc/passwd">' + HEAD + "</Machine>",
        '<?xml version="1.0" encoding="utf-7"?>+ADwAIQ-DOCTYPE Machine>' + HEAD + "</Machine>",
        HEAD + "&x;</Machine>",
        HEAD + '<Node name="a">' * 100 + "</Node>" * 100 + "</Machine>",
        HEAD + "text</Machine>",
        "<Machine/>",
        HEAD.replace("1.0", "2.0") + "</Machine>",
        "",
    ],
)
def test_parse_hostile_file_is_refused(text: str) -> None:
    with pytest.raises(ConfigError):
        cfgm_xml.parse(text.encode())


def test_parse_too_many_bytes_or_not_utf8_is_refused() -> None:
    with pytest.raises(ConfigError, match="larger than 16 MiB"):
        cfgm_xml.parse(b" " * (cfgm_xml.MAX_BYTES + 1))
    with pytest.raises(ConfigError, match="UTF-8"):
        cfgm_xml.parse((HEAD + "</Machine>").encode("utf-16"))


def test_parse_too_many_elements_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cfgm_xml, "MAX_ELEMENTS", 3)
    with pytest.raises(ConfigError, match="more than 3 elements"):
        parse("".join(f'<Node name="{number}"/>' for number in range(4)))


def test_serialize_password_is_left_out_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    tree = Node()
    tree.insert_password("Secret", "hunter2")
    with caplog.at_level(logging.WARNING):
        text = cfgm_xml.serialize(tree)
    assert b"hunter2" not in text
    assert "/Secret" in caplog.text


def test_serialize_too_deep_tree_is_refused() -> None:
    tree = Node()
    tree.insert_node("/".join("a" * cfgm_xml.MAX_DEPTH))
    with pytest.raises(ConfigError, match="deeper"):
        cfgm_xml.serialize(tree)
    shallow = Node()
    shallow.insert_node("/".join("a" * (cfgm_xml.MAX_DEPTH - 1)))
    assert cfgm_xml.parse(cfgm_xml.serialize(shallow)).equals(shallow)


def test_write_and_read_file_keeps_link_mode_and_leaves_nothing_beside(tmp_path: Path) -> None:
    target, link = tmp_path / "vm.xml", tmp_path / "link.xml"
    target.write_text("old")
    target.chmod(0o640)
    link.symlink_to(target)
    tree = Node()
    tree.insert_integer("A", 1)

    cfgm_xml.write(tree, link)

    assert link.is_symlink()
    assert cfgm_xml.read(target).equals(tree)
    assert target.stat().st_mode & 0o777 == 0o640
    assert sorted(os.listdir(tmp_path)) == ["link.xml", "vm.xml"]


def test_write_failure_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "vm.xml"
    target.write_text("old")

    def fail(source: str, destination: str) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(ConfigError, match="No space left"):
        cfgm_xml.write(Node(), target)
    assert target.read_text() == "old"
    assert os.listdir(tmp_path) == ["vm.xml"]


def test_read_missing_file_says_so(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        cfgm_xml.read(tmp_path / "none.xml")
    assert caught.value.status == "VERR_FILE_NOT_FOUND"
    with pytest.raises(ConfigError):
        cfgm_xml.read(tmp_path)
