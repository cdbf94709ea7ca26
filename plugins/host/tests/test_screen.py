"""The screen that nobody sits at: when it looks, what it keeps, its pictures."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
import screens
from PIL import Image

from vbox_pdm import Display, PdmError, Picture
from vbox_pdm.testing import Bench, fake_above
from vbox_plugin_host import png, screen

MS = 1_000_000


def make(bench: Bench, **config: Any) -> tuple[Any, Any]:
    """The driver, and what stands above it: 80x25 with `hello`."""
    bench.plugin(screen)
    above = fake_above(Display)
    above.answers = {"display_text": screens.text_screen("hello"), "display_picture": screens.picture()}
    driver = bench.add_driver("screen", above=above, **config)
    bench.power_on()
    bench.advance(0)
    return driver, above


def looks(above: Any) -> int:
    return len(above.named("display_text"))


def test_text_is_what_was_seen_last_with_its_attributes() -> None:
    with Bench() as bench:
        driver, above = make(bench)
        assert driver.text().text().startswith("hello")

        above.answers["display_text"] = screens.text_screen("new", attribute=0x1F)
        above.below.display_changed()
        bench.advance(100 * MS)

        assert driver.text() == screens.text_screen("new", attribute=0x1F)


def test_screen_that_does_not_change_is_not_looked_at() -> None:
    with Bench() as bench:
        _, above = make(bench)
        before = looks(above)

        bench.advance(5000 * MS)

        assert looks(above) == before


def test_screen_that_changes_all_the_time_is_looked_at_at_its_rate() -> None:
    with Bench() as bench:
        _, above = make(bench, rate=10)
        before = looks(above)

        for _ in range(1000):
            above.below.display_changed()
            bench.advance(1 * MS)

        assert 9 <= looks(above) - before <= 11


def test_change_after_a_rest_is_seen_at_once() -> None:
    with Bench() as bench:
        _, above = make(bench)
        bench.advance(1000 * MS)
        before = looks(above)

        above.below.display_changed()
        bench.advance(0)

        assert looks(above) == before + 1


def test_screenshot_from_another_thread_is_the_picture_of_now(tmp_path: Path) -> None:
    with Bench() as bench:
        driver, _ = make(bench)
        thread = threading.Thread(target=driver.screenshot, args=(str(tmp_path / "a.png"),))

        thread.start()
        assert bench.wait(lambda: not thread.is_alive())

        with Image.open(tmp_path / "a.png") as image:
            assert (image.size, image.mode, image.tobytes()) == ((4, 2), "RGB", screens.picture().rgb)


def test_png_is_written_at_power_off_and_the_last_look_stays(tmp_path: Path) -> None:
    path = tmp_path / "last.png"
    with Bench() as bench:
        driver, above = make(bench, png=str(path))
        above.answers["display_text"] = screens.text_screen("the end")
        above.answers["display_picture"] = screens.picture(7, 5)
        assert not path.exists()

        bench.power_off()
        above.answers["display_picture"] = None
        above.answers["display_text"] = None

        assert driver.text().text().startswith("the end")
        driver.screenshot(str(tmp_path / "again.png"))
        for name in ("last.png", "again.png"):
            with Image.open(tmp_path / name) as image:
                assert image.tobytes() == screens.picture(7, 5).rgb
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["again.png", "last.png"]


def test_live_png_follows_the_screen(tmp_path: Path) -> None:
    path = tmp_path / "live.png"
    with Bench() as bench:
        _, above = make(bench, png=str(path), live=True)
        assert bench.wait(path.exists)

        above.answers["display_picture"] = screens.picture(9, 3)
        above.below.display_changed()
        bench.advance(600 * MS)

        def follows() -> bool:
            with Image.open(path) as image:
                return image.size == (9, 3)

        assert bench.wait(follows)


def test_png_that_cannot_be_written_does_not_keep_the_vm_from_ending(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with Bench() as bench:
        make(bench, png=str(tmp_path / "missing" / "x.png"))

        bench.power_off()

    assert "cannot be written" in caplog.text


def test_device_that_shows_nothing_has_no_picture(tmp_path: Path) -> None:
    with Bench() as bench:
        driver, above = make(bench, png=str(tmp_path / "no.png"))
        above.answers = {"display_text": None, "display_picture": None}
        bench.power_off()

        with pytest.raises(PdmError, match="VERR_NOT_FOUND"):
            driver.screenshot(str(tmp_path / "x.png"))

        assert list(tmp_path.iterdir()) == []
        assert driver.text() is None


def test_picture_that_does_not_fit_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x.png"
    png.write_png(path, screens.picture())
    before = path.read_bytes()

    def full(self: Path, data: bytes) -> int:
        with open(self, "wb") as file:
            file.write(data[:10])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(PdmError, match=r"VERR_WRITE_ERROR.*free space"):
        png.write_png(path, Picture(100, 100, bytes(30000)))

    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
