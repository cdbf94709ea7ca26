"""Drives of a machine: texts, places, chains, images."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vbox_pdm import ConfigError
from vbox_vmm import machine, machine_storage
from vbox_vmm.cfgm import Node
from vbox_vmm.machine_storage import CD, DISK, Drive, parse_cdrom, parse_disk


def drives(tree: Node) -> dict[int, list[str]]:
    """LUN -> the drivers, from the top down."""
    found = {}
    for at in range(4):
        node = tree.find(f"Devices/piix3ide/0/LUN#{at}")
        chain = []
        while node is not None:
            chain.append(node.query_string("Driver"))
            node = node.find("AttachedDriver")
        if chain:
            found[at] = chain
    return found


def paths(tree: Node) -> dict[int, str]:
    return {
        int(where[-1]): Path(node.query_string("Config/path")).name
        for where, node in machine_storage._images(tree)
    }


def with_drives(*texts: str, tree: Node | None = None) -> Node:
    """Disks, or with `cd:` before them CDs."""
    tree = machine.default_machine() if tree is None else tree
    parsed = [parse_cdrom(text[3:]) if text.startswith("cd:") else parse_disk(text) for text in texts]
    machine_storage.add_drives(tree, parsed)
    return tree


@pytest.mark.parametrize(
    ("text", "drive"),
    [
        ("a.img", Drive(DISK, Path("a.img"))),
        ("a,,b.img", Drive(DISK, Path("a,b.img"))),
        ("a.img,snapshot", Drive(DISK, Path("a.img"), snapshot=True)),
        ("a.img,snapshot=on,at=3", Drive(DISK, Path("a.img"), 3, snapshot=True)),
        ("a.img,readonly=yes,x=y", Drive(DISK, Path("a.img"), read_only=True, config={"x": "y"})),
        ("none", Drive(DISK, Path("none"))),
    ],
)  # fmt: skip
def test_parse_disk_splits_path_place_and_keys(text: str, drive: Drive) -> None:
    assert parse_disk(text) == drive


def test_parse_cdrom_none_is_an_empty_drive() -> None:
    assert parse_cdrom("none,at=1") == Drive(CD, None, 1)
    assert parse_cdrom("x.iso") == Drive(CD, Path("x.iso"))


@pytest.mark.parametrize(
    "text",
    ["", ",at=1", "a,b", "a,=1", "a,at=x", "a,at=4", "a,at=1,at=1", "a,snapshot=perhaps", "a,readonly="],
)
def test_parse_disk_of_nonsense_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="VERR_INVALID_PARAMETER"):
        parse_disk(text)


@settings(max_examples=50, deadline=None)
@given(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1))
def test_any_path_survives_with_its_commas_doubled(path: str) -> None:
    assert parse_disk(path.replace(",", ",,") + ",at=2").path == Path(path) or path.endswith(",")


def test_chain_of_a_disk_writes_and_that_of_a_snapshot_does_not() -> None:
    tree = with_drives("a.img", "b.img,snapshot=on", "c.img,readonly=on", "cd:d.iso")

    assert drives(tree) == {
        0: ["ata-disk", "raw-image"],
        1: ["ata-disk", "overlay", "raw-image"],
        2: ["atapi-cd", "raw-image"],
        3: ["ata-disk", "raw-image"],
    }
    read_only = [bool(node.query_bool("Config/read_only")) for _, node in machine_storage._images(tree)]
    assert read_only == [False, True, True, True]
    assert Path(tree.query_string("Devices/piix3ide/0/LUN#0/AttachedDriver/Config/path")).is_absolute()


@pytest.mark.parametrize(
    ("texts", "places"),
    [
        (["a", "b", "c", "d"], {0: "a", 1: "b", 2: "c", 3: "d"}),
        (["a", "cd:x"], {0: "a", 2: "x"}),
        (["a", "b", "c", "cd:x"], {0: "a", 1: "b", 3: "c", 2: "x"}),
        (["cd:x", "cd:y", "cd:z"], {2: "x", 3: "y", 1: "z"}),
        (["a,at=2", "cd:x"], {2: "a", 3: "x"}),
        (["a", "b,at=0"], {0: "b", 1: "a"}),
        (["cd:x,at=0", "a"], {0: "x", 1: "a"}),
    ],
)
def test_drives_go_where_people_expect_them(texts: list[str], places: dict[int, str]) -> None:
    assert paths(with_drives(*texts)) == places


def test_empty_drive_has_no_image() -> None:
    assert drives(with_drives("cd:none")) == {2: ["atapi-cd"]}


def test_cd_goes_into_the_drive_that_a_machine_has() -> None:
    tree = with_drives("a", "cd:none,at=1")

    with_drives("cd:x", "b", tree=tree)

    assert paths(tree) == {0: "a", 1: "x", 2: "b"}


def test_disk_with_a_place_replaces_what_is_there() -> None:
    tree = with_drives("a")

    with_drives("b,at=0", tree=tree)

    assert paths(tree) == {0: "b"}


@pytest.mark.parametrize(
    ("texts", "status"),
    [(["a,at=1", "b,at=1"], "VERR_ALREADY_EXISTS"), (["a", "b", "c", "d", "e"], "VERR_OUT_OF_RANGE")],
)
def test_drives_that_have_no_place_are_refused(texts: list[str], status: str) -> None:
    with pytest.raises(ConfigError, match=status):
        with_drives(*texts)


# --- images


def check(*texts: str) -> None:
    machine_storage.check_images(with_drives(*texts))


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "disk.img"
    path.write_bytes(bytes(1024))
    return path


def test_image_that_can_be_used_is_fine_whatever_its_size(image: Path) -> None:
    check(str(image))
    image.write_bytes(b"x")
    check(f"cd:{image}")


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"QFI\xfb" + bytes(600), "qcow2"), (b"KDMV" + bytes(600), "VMDK"), (b"conectix" + bytes(600), "VHD"),
        (bytes(64) + b"\x7f\x10\xda\xbe" + bytes(600), "VDI"),
    ],
)  # fmt: skip
def test_image_of_another_format_is_named_with_a_way_out(image: Path, content: bytes, what: str) -> None:
    image.write_bytes(content)

    with pytest.raises(
        ConfigError, match=rf"{image} is a {what} image.*VERR_NOT_SUPPORTED.*qemu-img convert"
    ):
        check(str(image))


def test_image_that_is_empty_a_folder_or_missing_is_named(image: Path, tmp_path: Path) -> None:
    image.write_bytes(b"")
    with pytest.raises(ConfigError, match=rf"{image} is empty.*truncate"):
        check(str(image))
    with pytest.raises(ConfigError, match="VERR_IS_A_DIRECTORY"):
        check(str(tmp_path))
    with pytest.raises(ConfigError, match="VERR_FILE_NOT_FOUND"):
        check(f"{image}.missing")
    with pytest.raises(ConfigError, match="VERR_FILE_NOT_FOUND"):
        check(f"{image}/in/a/file")


def test_image_that_is_no_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")

    with pytest.raises(ConfigError, match="neither a file nor a block device"):
        check(str(tmp_path / "pipe"))


def test_image_that_may_not_be_written_says_what_helps(image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may always

    with pytest.raises(ConfigError, match=r"VERR_ACCESS_DENIED.*snapshot=on or ,readonly=on"):
        check(str(image))
    check(f"{image},snapshot=on")
    check(f"{image},readonly=on")


def test_image_in_two_drives_is_refused_unless_nobody_writes(image: Path) -> None:
    link = image.with_name("link")
    link.symlink_to(image)

    with pytest.raises(ConfigError, match=r"VERR_SHARING_VIOLATION"):
        check(str(image), f"{link},snapshot=on")
    check(f"{image},snapshot=on", f"{link},readonly=on")
