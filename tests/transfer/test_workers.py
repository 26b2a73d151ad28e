"""Groups of threads: first error, cancel, interrupt, services, no more threads."""
# ruff: noqa: PT012  # what happens in the block of a group is what is tested

import threading

import pytest

from downloader.errors import StorageError
from downloader.transfer.workers import WorkerGroup, run_all

pytestmark = pytest.mark.portable


def test_join_raises_the_first_error_and_cancels_the_others() -> None:
    seen = threading.Event()
    with pytest.raises(ValueError, match="first"), WorkerGroup() as group:
        group.start(lambda: _wait_then(group.cancelled, seen.set))
        group.start(lambda: _raise(ValueError("first")))
    assert seen.is_set()


def test_cancel_wakes_a_worker_that_waits_for_something_else() -> None:
    woken = threading.Event()

    def work() -> None:
        with group.interrupting(woken.set):
            assert woken.wait(10)

    with WorkerGroup() as group:
        group.start(work)
        group.cancel()
    assert woken.is_set()


def test_interrupting_after_cancel_calls_at_once() -> None:
    group, woken = WorkerGroup(), threading.Event()
    group.cancel()
    with group.interrupting(woken.set):
        assert woken.is_set()


def test_service_runs_until_the_workers_are_done() -> None:
    ended = threading.Event()
    with WorkerGroup() as group:
        group.start(lambda: _wait_then(group.cancelled, ended.set), is_service=True)
        group.start(lambda: None)
    assert ended.is_set()


def test_failed_service_fails_the_group() -> None:
    with pytest.raises(ValueError, match="sync"), WorkerGroup() as group:
        group.start(lambda: _raise(ValueError("sync")), is_service=True)
        group.start(lambda: _wait_then(group.cancelled, lambda: None))


def test_error_in_the_block_cancels_the_workers_and_is_raised() -> None:
    with pytest.raises(ValueError, match="block"), WorkerGroup() as group:
        group.start(lambda: _wait_then(group.cancelled, lambda: None))
        raise ValueError("block")
    assert group.cancelled.is_set()


def test_error_in_the_block_gives_way_to_the_worker_error_that_led_to_it() -> None:
    with pytest.raises(ValueError, match="worker"), WorkerGroup() as group:
        group.start(lambda: _raise(ValueError("worker")))
        assert group.cancelled.wait(10)
        raise RuntimeError("cancelled")


def test_tasks_run_with_fewer_threads_where_the_system_has_no_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    start, started = threading.Thread.start, list[threading.Thread]()

    def refuse(thread: threading.Thread) -> None:
        if started:
            raise RuntimeError("can't start new thread")
        started.append(thread)
        start(thread)

    done: list[int] = []
    monkeypatch.setattr(threading.Thread, "start", refuse)
    run_all([(4, [lambda n=n: done.append(n) for n in range(8)])])  # type: ignore[misc]
    assert done == list(range(8))
    with pytest.raises(StorageError, match="no more threads"):
        WorkerGroup().start(lambda: None)


def test_run_all_leaves_the_event_of_its_caller_unset_after_success() -> None:
    cancelled, done = threading.Event(), threading.Event()
    run_all([(1, [done.set])], cancelled)
    assert done.is_set()
    assert not cancelled.is_set()


def _raise(error: Exception) -> None:
    raise error


def _wait_then(event: threading.Event, call: object) -> None:
    assert event.wait(10)
    assert callable(call)
    call()
