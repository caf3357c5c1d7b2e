"""Pools that are shared: the kinds of files that they lie in, and what is written in them."""

from helpers import FRAME

FRAMES = 16
SIZE = FRAMES * FRAME
STAMPED = [0x5EED << 32 | frame for frame in range(FRAMES)]


KINDS = ["huge memfd", "small memfd", "unnamed", "named"]


def options_of(kind, request):
    """How a pool on this kind of file is opened; skips the test where there is none."""
    if kind == "small memfd":
        return {"huge": "off"}
    request.getfixturevalue("needs_huge")
    if kind == "huge memfd":
        return {"huge": "require"}
    mount = request.getfixturevalue("mount")
    return {"path": mount / "heap" if kind == "named" else mount}
