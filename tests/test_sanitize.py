"""The machinery of `make sanitize`; what it runs takes minutes, and is not run here."""

import importlib.util
import os
import re
import subprocess
import sys

import pytest
from helpers import ROOT

FOLDER = ROOT / "tools" / "sanitize"

pytestmark = pytest.mark.skipif(not FOLDER.exists(), reason="an sdist comes without tools/sanitize")


@pytest.fixture(scope="module")
def machinery():
    """tools/sanitize/run.py, as a module."""
    spec = importlib.util.spec_from_file_location("sanitize_run", FOLDER / "run.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def setup(*arguments, **environment):
    return subprocess.run(
        [sys.executable, "setup.py", *arguments],
        cwd=ROOT,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_a_sanitized_build_never_lies_over_the_normal_one():
    modules = {path: path.stat().st_mtime_ns for path in (ROOT / "mrm").rglob("*.so")}
    refused = setup("--quiet", "build_ext", "--inplace", MRM_SANITIZE="address")
    assert refused.returncode == 1
    assert refused.stderr.strip().splitlines()[-1].startswith("MRM_SANITIZE is for a build folder of its own")
    assert modules == {path: path.stat().st_mtime_ns for path in (ROOT / "mrm").rglob("*.so")}


@pytest.mark.parametrize("value", ["", "address,undefined", "thread"])
def test_the_flags_follow_the_option(value):
    code = f"""if True:
        import os, runpy
        os.environ["MRM_SANITIZE"] = {value!r}
        setup = runpy.run_path("setup.py", run_name="setup")
        for extension in setup["extensions"]():
            print(*extension.extra_compile_args, *extension.extra_link_args)
    """
    command = [sys.executable, "-c", code]
    told = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
    for flags in map(str.split, told.stdout.splitlines()):
        assert flags.count(f"-fsanitize={value}") == (2 if value else 0)
        assert ("-O2" in flags) == (not value)
        assert ("-g" in flags) == ("-fno-omit-frame-pointer" in flags) == bool(value)
    assert told.stdout


def test_every_suppression_follows_its_reason():
    reason = ""
    for line in (FOLDER / "tsan.supp").read_text().splitlines():
        if line.startswith("#"):
            reason += line.lstrip("# ")
        elif line:
            assert re.fullmatch(r"(race|leak|called_from_lib|thread|mutex|signal):\S+", line), line
            assert len(reason) > 40, f"{line} has no reason"
            reason = ""
        else:
            reason = ""


def test_what_is_left_out_is_there_and_has_a_reason(machinery):
    for test, reason in machinery.LEFT_OUT.items():
        file, _, name = test.partition("::")
        assert f"def {name}" in (ROOT / "tests" / file).read_text()
        assert len(reason) > 10


def test_a_runtime_that_is_not_there_is_named_with_its_package(machinery):
    with pytest.raises(machinery.Missing, match=r"no libnothing\.so: apt-get install gcc"):
        machinery.runtime("libnothing.so")


def test_the_races_call_all_that_changes_something():
    header = (ROOT / "include" / "mrm" / "mrm.h").read_text()
    table = header.partition("typedef struct mrm_api {")[2].partition("} mrm_api;")[0]
    names = set(re.findall(r"\(\*(\w+)\)\(", table))
    races = "".join((FOLDER / name).read_text() for name in ("races.c", "heapraces.c"))
    raced = set(re.findall(r"\bmrm->(\w+)\(", races))
    looks = {"heap_check"}  # at a heap that looks for mistakes, under its lock
    contents = {"zero", "copy_frame"}  # whose frames' contents those are is the caller's matter
    constant = {"call_name", "view_number", "pool_description"}
    counted = {"pool_retain"}  # by views and reservations, too
    assert names - raced == contents | constant | counted | looks
