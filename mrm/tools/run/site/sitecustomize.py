"""Puts an interpreter's objects and arrays on huge pages as it starts, for ``mrm run --children``.

Python imports ``sitecustomize`` by that name from the first folder that has one. So this
takes its folder out of the search, and lets one that stands behind it have its turn. What fails
here is no reason for a worker not to start: it goes on as a plain interpreter.
"""

import os
import sys


def _start() -> None:
    folder = os.path.dirname(os.path.abspath(__file__))
    sys.path[:] = [entry for entry in sys.path if os.path.abspath(entry) != folder]
    told = os.environ.get("MRM_RUN")
    if told:
        try:
            from mrm.tools.run.memory import put_in_place
            from mrm.tools.run.plan import Plan

            put_in_place(Plan.from_variable(told))
        except Exception as error:  # noqa: BLE001
            print(f"mrm: this interpreter is not on huge pages: {error!r}", file=sys.stderr)


_start()
_own = sys.modules.pop("sitecustomize")
try:
    import sitecustomize  # type: ignore[import-not-found]  # noqa: F401
except ModuleNotFoundError as error:
    if error.name != "sitecustomize":
        raise
finally:
    sys.modules.setdefault("sitecustomize", _own)  # the import that is under way looks for it
