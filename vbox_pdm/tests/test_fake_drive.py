"""The fake drive, as a controller meets it."""

from __future__ import annotations

from typing import Any

import pytest

from vbox_pdm import Device, DriveRequest, DriveReset, TaskFile
from vbox_pdm.drive import ATAPI_SIGNATURE, Direction, Drive, Phase
from vbox_pdm.testing import Bench
from vbox_pdm.testing.fake_drive import Answer, FakeDrive, Step


class Controller(Device[Any]):
    """Submits what a test says, and keeps what comes back."""

    def pdm_construct(self) -> None:
        self.drive = self.helpers.lun(0, Drive, "drive")
        self.done: list[tuple[int, bool, int]] = []
        self.notified = 0

    def drive_notify(self) -> None:
        self.notified += 1

    def request(self, command: int, *views: memoryview, packet: bytes = b"") -> DriveRequest:
        task = TaskFile(command, count=3, lba=9, device=0x40)
        request = DriveRequest(task, self.ended, packet, views=views)
        self.drive.drive_submit(request)
        return request

    def ended(self, request: DriveRequest) -> None:
        self.done.append((request.moved, request.more, request.status))


def made(drive: FakeDrive) -> Controller:
    controller: Controller = Bench().add(Controller, lun0=drive)
    return controller


def test_fake_drive_aborts_what_it_does_not_know() -> None:
    controller = made(FakeDrive())
    assert controller.drive.drive_phase(TaskFile(0x20), b"") == Phase()
    request = controller.request(0x20)
    assert controller.done == [(0, False, 0x51)]
    assert (request.error, request.count, request.lba, request.device) == (4, 3, 9, 0x40)


@pytest.mark.parametrize("most", [None, 100])
def test_fake_drive_gives_what_fits_and_goes_on(most: int | None) -> None:
    data = bytes(range(250))
    drive = FakeDrive(most=most)
    drive.commands[0x20] = Answer.reads(data)
    controller = made(drive)
    assert controller.drive.drive_phase(TaskFile(0x20), b"") == Phase(Direction.IN, 250)
    memory = bytearray(150)
    request = controller.request(0x20, memoryview(memory)[:70], memoryview(memory)[70:])
    got = bytes(memory[: request.moved])
    assert len(got) == min(150, most or 150)
    while request.more:
        request.position += request.moved
        controller.drive.drive_submit(request)
        got += memory[: request.moved]
    assert got == data
    assert drive.finished == len(drive.steps) == (2 if most is None else 3)
    assert drive.steps[0] == Step(request.task, b"", 0, 150)


def test_fake_drive_takes_up_to_what_it_accepts() -> None:
    stored: list[tuple[int, bytes]] = []
    drive = FakeDrive(ATAPI_SIGNATURE)
    phase = Phase(Direction.OUT, 20)
    drive.packets[0x55] = Answer(
        phase, store=lambda at, data: stored.append((at, data)), accept=12, status=0x51, error=0x50
    )
    controller = made(drive)
    request = controller.request(0xA0, memoryview(b"abcdefgh"), packet=b"\x55")
    assert controller.done == [(8, True, 0x50)]
    request.position = 8
    controller.drive.drive_submit(request)
    assert controller.done[1] == (4, False, 0x51)
    assert stored == [(0, b"abcdefgh"), (8, b"abcd")]


def test_fake_drive_holds_until_it_is_told() -> None:
    drive = FakeDrive(hold=True)
    controller = made(drive)
    controller.request(0xEF)
    assert not controller.done
    with pytest.raises(AssertionError):
        controller.request(0xEF)
    controller.drive.drive_reset(DriveReset.SOFTWARE)
    assert not controller.done
    drive.complete()
    assert len(controller.done) == 1
    controller.request(0xEF)
    controller.drive.drive_reset(DriveReset.POWER)
    assert len(controller.done) == 2
    assert drive.resets == [DriveReset.SOFTWARE, DriveReset.POWER]
    drive.stubborn = True
    controller.request(0xEF)
    controller.drive.drive_reset(DriveReset.POWER)
    assert len(controller.done) == 2


def test_fake_drive_answers_by_a_function_and_notifies() -> None:
    drive = FakeDrive(lchs=(20, 4, 17))
    drive.commands[0xEF] = lambda task, packet: Answer(count=task.count + 1)
    controller = made(drive)
    assert controller.request(0xEF).count == 4
    assert controller.drive.drive_lchs() == (20, 4, 17)
    drive.notify()
    assert controller.notified == 1
