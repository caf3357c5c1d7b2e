"""docs/api.md says what the docstrings say, and nothing public goes without one."""

import inspect
import subprocess
import sys
from pathlib import Path

from machine import needs_checkout

import mrm

ROOT = Path(__file__).resolve().parent.parent


@needs_checkout
def test_the_page_is_current():
    ran = subprocess.run(
        [sys.executable, ROOT / "tools" / "make_api.py", "--check"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr


def test_everything_public_has_a_docstring():
    bare = [name for name in mrm.__all__ if not getattr(mrm, name).__doc__]
    for name in mrm.__all__:
        thing = getattr(mrm, name)
        if inspect.isclass(thing) and thing.__module__.startswith("mrm"):
            bare += [
                f"{name}.{member}"
                for base in thing.__mro__
                if base.__module__.startswith("mrm")
                for member, value in vars(base).items()
                if not member.startswith("_")
                and (callable(value) or isinstance(value, property))
                and not value.__doc__
            ]
    assert bare == []
