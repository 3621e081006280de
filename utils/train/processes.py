"""A thread that works ahead, and signals."""
import signal
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any


def ahead(function: Callable, items: Iterable) -> Iterator:
    """``function(item)`` of every item, in order, each computed in a thread while the one before is in use."""
    with ThreadPoolExecutor(1) as pool:
        waiting = None
        for item in items:
            future = pool.submit(function, item)
            if waiting:
                yield waiting.result()
            waiting = future
        if waiting:
            yield waiting.result()


@contextmanager
def stop_signals() -> Iterator[list[int]]:
    """Collect SIGINT (Ctrl-C) and SIGTERM in the list that this gives; a second one is as it was before."""
    received: list[int] = []
    before: dict[int, Any] = {}

    def receive(number, frame):
        received.append(number)
        signal.signal(number, before[number])

    for number in (signal.SIGINT, signal.SIGTERM):
        before[number] = signal.signal(number, receive)
    try:
        yield received
    finally:
        for changed, handler in before.items():
            signal.signal(changed, handler)
