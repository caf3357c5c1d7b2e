"""examples/runtime is a project of its own: installed by pip against the installed mrm, and its own tests pass."""

import functools
import re
import shutil
import sys

import pytest
from installed import ROOT, folder, python, run, site
from machine import needs_checkout, needs_compiler

pytestmark = [needs_checkout, needs_compiler, pytest.mark.timeout(400)]

PROJECT = ROOT / "examples" / "runtime"


@functools.cache
def project():
    """A copy of it, away from the checkout, and the folder that it is installed in."""
    made = shutil.ignore_patterns("*.c", "*.so", "build", "__pycache__", "*.egg-info")
    here = shutil.copytree(PROJECT, folder("runtime") / "project", ignore=made)
    target = folder("larder")
    options = ("--quiet", "--no-deps", "--no-index", "--no-build-isolation", "--target", target)
    python("-m", "pip", "install", *options, ".", cwd=here)
    return here, target


def on_the_installed(*arguments, **environment):
    """Run Python with the installed mrm and larder, where neither's sources are."""
    here, target = project()
    shutil.rmtree(here / "larder", ignore_errors=True)
    path = f"{target}:{site()}"
    return run(
        sys.executable, *arguments, cwd=here, PYTHONPATH=path, PYTHONDONTWRITEBYTECODE="1", **environment
    )


def test_its_own_tests_pass():
    said = on_the_installed("-m", "pytest", "-q", "-p", "no:cacheprovider")
    assert re.search(r"^\d\d passed", said, re.MULTILINE), said
    assert "skipped" not in said


def test_its_demo_says_what_cycles_cost():
    said = on_the_installed("-m", "larder.demo", "--pool", "96MiB", "--rounds", 2, PYTHONWARNINGS="ignore")
    assert len(re.findall(r"objects are what was last put there", said)) == 2, said
    assert re.search(r"pages emptied +\d+, into \d+", said), said
    assert re.search(r"shootdowns +\d+, [\d.]+ a page", said), said
    assert "and none when the store is closed" in said


def test_its_readme_runs():
    (shown,) = re.findall(r"```python\n(.*?)```", (PROJECT / "README.md").read_text(), re.DOTALL)
    said = on_the_installed("-W", "ignore", "-c", shown)
    assert re.search(r"^\d+ pages, .*\nb'hello' 0x[0-9a-f]+$", said, re.MULTILINE), said


def test_its_wheel_holds_what_it_is_made_of():
    _, target = project()
    held = {path.name.partition(".")[0] for path in (target / "larder").glob("*.so")}
    assert held == {path.stem for path in (PROJECT / "larder").glob("*.pyx")}
    assert {path.name for path in PROJECT.glob("larder/*.pxd")} <= {
        path.name for path in target.glob("larder/*")
    }
