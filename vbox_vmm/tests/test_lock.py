"""The VM's lock: fairness, re-entrance, ownership."""

from __future__ import annotations

import threading

import pytest

from vbox_vmm.lock import VmLock


def test_lock_taken_twice_by_its_owner_needs_two_releases() -> None:
    lock = VmLock(lambda: None)
    lock.acquire()
    lock.acquire()

    lock.release()
    still_mine = lock.mine
    lock.release()

    assert still_mine
    assert not lock.mine


def test_lock_released_by_a_stranger_raises() -> None:
    lock = VmLock(lambda: None)

    with pytest.raises(RuntimeError):
        lock.release()


def test_lock_waiter_kicks_the_owner_and_goes_first() -> None:
    kicked = threading.Event()
    lock = VmLock(kicked.set)
    order: list[str] = []
    lock.acquire()

    def outsider() -> None:
        with lock:
            order.append("outsider")

    thread = threading.Thread(target=outsider)
    thread.start()
    assert kicked.wait(10)
    assert len(lock.waiters) == 1
    lock.let_others_in()
    order.append("owner")
    lock.release()
    thread.join(10)

    assert order == ["outsider", "owner"]
    assert not lock.waiters


def test_lock_let_go_by_another_than_the_keeper_kicks_the_keeper() -> None:
    # It may sleep without the lock, and has something to see now.
    kicks: list[int] = []
    lock = VmLock(lambda: kicks.append(threading.get_ident()))
    lock.keeper = threading.get_ident()

    with lock:
        pass
    kept = list(kicks)
    outsider = threading.Thread(target=lambda: lock.__enter__() and lock.release())
    outsider.start()
    outsider.join(10)

    assert (kept, kicks) == ([], [outsider.ident])


def test_lock_many_threads_never_overlap() -> None:
    lock = VmLock(lambda: None)
    inside = 0
    worst = 0
    total = 0

    def worker() -> None:
        nonlocal inside, worst, total
        for _ in range(200):
            with lock:
                inside += 1
                worst = max(worst, inside)
                total += 1
                inside -= 1

    threads = [threading.Thread(target=worker) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)

    assert worst == 1
    assert total == 1200
