"""mrm as its users get it: an sdist of this checkout, a wheel of that, and the wheel installed.

What the checkout has compiled is used again, so that this takes seconds; all else comes
from the archives. Where the tests lie beside an installed mrm, it is that one.
"""

import functools
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from machine import CHECKOUT

import mrm

ROOT = Path(__file__).resolve().parent.parent
_SCRATCH = tempfile.TemporaryDirectory(prefix="mrm-installed-")


def run(*command, cwd, **environment):
    """Run a command to its end; a failure shows all that it said."""
    done = subprocess.run(
        list(map(str, command)),
        cwd=cwd,
        env=os.environ | environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, f"{command} failed ({done.returncode}):\n{done.stdout}\n{done.stderr}"
    return done.stdout


def python(*arguments, cwd, **environment):
    """Run this Python, with the installed mrm and not the checkout's."""
    return run(sys.executable, *arguments, cwd=cwd, PYTHONPATH=str(site()), **environment)


def folder(name):
    """A new folder that goes when the tests end."""
    return Path(tempfile.mkdtemp(prefix=f"{name}-", dir=_SCRATCH.name))


def _archive(kind, source):
    """What the build backend makes of a source tree, by the hook that pip and build call."""
    target = folder(kind)
    hook = f"import sys; from setuptools import build_meta; build_meta.build_{kind}(sys.argv[1])"
    run(sys.executable, "-c", hook, target, cwd=source)
    (made,) = target.iterdir()
    return made


@functools.cache
def sdist():
    """The sdist of this checkout."""
    return _archive("sdist", ROOT)


@functools.cache
def wheel():
    """The wheel of the sdist."""
    unpacked = folder("unpacked")
    run("tar", "xf", sdist(), cwd=unpacked)
    (source,) = unpacked.iterdir()
    _reuse_compiled(source)
    return _archive("wheel", source)


def _reuse_compiled(source):
    """Put what the checkout has compiled where setup.py looks whether it has to."""
    for module in source.rglob("*.pyx"):
        name = module.relative_to(source).with_suffix("")
        made = [ROOT / f"{name}.c", *ROOT.glob(f"build/lib.*/{name}.*.so")]
        for file in filter(Path.exists, made):
            target = source / file.relative_to(ROOT)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(file, target)


@functools.cache
def site():
    """The folder that the wheel is installed in."""
    if not CHECKOUT:
        return Path(mrm.__file__).parents[1]
    target = folder("site")
    options = ("--quiet", "--no-deps", "--no-index", "--target", target)
    run(sys.executable, "-m", "pip", "install", *options, wheel(), cwd=target)
    return target
