"""Puts a program's objects and arrays on huge pages, as a plan has it.

Objects are put in place before the program begins. Arrays are when it imports numpy, and not
before: importing numpy takes a tenth of a second and 20 MiB, which a program without
arrays shall not pay. A finder at the head of ``sys.meta_path`` waits for that import, steps aside, and
lets numpy be found as ever; only the loader that was found is replaced, for
as long as it loads, by one that loads by it, and then installs.
"""

import importlib.machinery
import sys
import tracemalloc
import warnings
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

from mrm.errors import Error
from mrm.tools.run.plan import Plan


class Memory:
    """What was put in place, for the account in the end.

    Attributes
    ----------
    objects : mrm.cpython.Objects or None
        The handle.
    arrays : object or None
        That of mrm.numpy.
    reasons : list of str
        Why something is not in place, a sentence each.
    """

    def __init__(self) -> None:
        self.objects: Any = None
        self.arrays: Any = None
        self.reasons: list[str] = []

    def refused(self, plan: Plan, what: str, why: object) -> None:
        """Note a reason; where it was asked for, it is an error."""
        if plan.asked:
            raise Error(f"{what} cannot lie on huge pages: {why}")
        self.reasons.append(f"{what}: {why}")


def put_in_place(plan: Plan) -> Memory:
    """Do what the plan says.

    Raises
    ------
    Error
        If something that was asked for by name cannot be done.
    """
    memory = Memory()
    if plan.objects:
        _objects(plan, memory)
    if plan.arrays:
        if "numpy" in sys.modules:
            _arrays(plan, memory)
        else:
            if plan.asked and importlib.machinery.PathFinder.find_spec("numpy") is None:
                memory.refused(plan, "arrays", "numpy is not installed")
            sys.meta_path.insert(0, _Waiting("numpy", lambda: _arrays(plan, memory)))
    return memory


def _objects(plan: Plan, memory: Memory) -> None:
    import mrm.cpython

    memory.objects = mrm.cpython.installed()
    if memory.objects is not None:
        return
    tracing = tracemalloc.get_traceback_limit() if tracemalloc.is_tracing() else 0
    if tracing:
        tracemalloc.stop()  # what it has seen so far is nothing of the program's; it has to stand above
    try:
        # Small pages are said in the account, not in the middle of the program's output.
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            memory.objects = mrm.cpython.install(limit=plan.pool)
        memory.reasons += [str(warning.message) for warning in said]
    except Error as error:
        memory.refused(plan, "objects", error)
    finally:
        if tracing:
            tracemalloc.start(tracing)


def _arrays(plan: Plan, memory: Memory) -> None:
    """numpy is there; after an error the program goes on without, unless nothing has begun yet."""
    try:
        import mrm
        import mrm.numpy

        memory.arrays = mrm.numpy.install(mrm.Heap(limit=plan.pool) if plan.pool else None)
    except (Error, ImportError) as error:
        memory.reasons.append(f"arrays: {error}")


class _Waiting:
    """Waits for an import, and does something when it is done; importlib.abc would take 10 ms to be derived from."""

    def __init__(self, name: str, then: Callable[[], None]) -> None:
        self._name = name
        self._then = then

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name != self._name:
            return None
        sys.meta_path.remove(self)
        for finder in sys.meta_path:
            spec = finder.find_spec(name, path, target)
            if spec is not None:
                if spec.loader is not None:
                    spec.loader = _Loader(spec.loader, self._then)  # type: ignore[assignment]
                return spec
        return None


class _Loader:
    """Loads by another loader, which stands in its place again before any code of the module runs."""

    def __init__(self, loader: Any, then: Callable[[], None]) -> None:
        self._loader = loader
        self._then = then

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)  # type: ignore[no-any-return]

    def exec_module(self, module: ModuleType) -> None:
        module.__loader__ = self._loader
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        self._loader.exec_module(module)
        self._then()
