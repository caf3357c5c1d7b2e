"""The calls of a log again."""

from typing import Any

from mrm.tools.replay.calls import Calls

def run_on_glibc(calls: Calls) -> tuple[int, int, int, int, int, float]: ...
def run_on_heap(calls: Calls, heap: Any, stop: bool = False) -> tuple[int, int, int, int, int, float]: ...
