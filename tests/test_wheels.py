"""tools.wheels: what is found and refused in a wheel, as far as it can be seen without making one."""

import json
import zipfile

import pytest
from helpers import ROOT

pytest.importorskip(
    "tools.wheels", reason="a checkout's tools are not here: it is an installed mrm that is tested"
)
from click.testing import CliRunner

from tools.machines.needs import MachineError
from tools.wheels import trial
from tools.wheels.__main__ import main
from tools.wheels.make import look_into
from tools.wheels.pythons import Python, ask, named
from tools.wheels.report import Row, as_json

FREE = Python("python3.13t", "3.13.15", "cp313-cp313t", "glibc 2.31", "/none")


def wheel(folder, tag, module="cpython-313t-x86_64-linux-gnu", *, without="", surplus=()):
    """A wheel of empty files that holds what the checkout's should."""
    path = folder / f"mrm-1-{tag}.whl"
    names = {"mrm/py.typed", "mrm/include/mrm/mrm.h"}
    for found in (ROOT / "mrm").rglob("*"):
        name = str(found.relative_to(ROOT))
        if found.suffix in (".py", ".pyi", ".pxd", ".h"):
            names.add(name)
        elif found.suffix == ".pyx":
            names.add(f"{name.removesuffix('.pyx')}.{module}.so")
    interpreter, abi, platforms = tag.split("-")
    lines = "".join(f"Tag: {interpreter}-{abi}-{platform}\n" for platform in platforms.split("."))
    with zipfile.ZipFile(path, "w") as archive:
        for name in sorted(names - {without}) + list(surplus):
            archive.writestr(name, "")
        archive.writestr("mrm-1.dist-info/WHEEL", lines)
    return path


BOTH = "manylinux2014_x86_64.manylinux_2_17_x86_64"


def test_a_wheel_as_it_should_be(tmp_path):
    found = look_into(wheel(tmp_path, f"cp313-cp313t-{BOTH}"), FREE, ROOT)
    assert found.wrong == []
    assert (found.tag, found.policy) == ("cp313-cp313t-manylinux_2_17_x86_64", "manylinux_2_17")
    assert found.modules == len(list((ROOT / "mrm").rglob("*.pyx")))


@pytest.mark.parametrize(
    ("tag", "options", "said"),
    [
        (f"cp313-cp313-{BOTH}", {}, "not cp313-cp313t"),
        ("cp313-cp313t-manylinux_2_35_x86_64", {}, "needs manylinux_2_35"),
        ("cp313-cp313t-linux_x86_64", {}, "needs linux"),
        (f"cp313-cp313t-{BOTH}", {"module": "cpython-313-x86_64-linux-gnu"}, "compiled for another Python"),
        (f"cp313-cp313t-{BOTH}", {"without": "mrm/py.typed"}, "lacks mrm/py.typed"),
        (f"cp313-cp313t-{BOTH}", {"surplus": ["mrm/_core.c"]}, "holds mrm/_core.c"),
        (f"cp313-cp313t-{BOTH}", {"surplus": ["tests/helpers.py"]}, "holds tests/helpers.py"),
    ],
)
def test_what_is_wrong_with_a_wheel_is_said(tmp_path, tag, options, said):
    assert said in " ".join(look_into(wheel(tmp_path, tag, **options), FREE, ROOT).wrong)


def test_a_row_passes_only_if_something_was_tested(tmp_path):
    contents = look_into(wheel(tmp_path, f"cp313-cp313t-{BOTH}"), FREE, ROOT)
    assert Row(FREE, contents, trial.Trial(passed=1)).passed
    assert not Row(FREE, contents, trial.Trial(skipped=9)).passed
    assert not Row(FREE, contents, trial.Trial(passed=9, failed=1)).passed
    assert not Row(FREE, contents, wrong="no").passed
    assert (
        json.loads(json.dumps(as_json([Row(FREE, contents)])))["wheels"][0]["python"]["version"] == "3.13.15"
    )


def test_compilers_are_known_by_their_names():
    for name in ("gcc", "cc", "x86_64-linux-gnu-gcc-12", "clang-19", "c++", "g++"):
        assert trial._COMPILER.match(name), name
    for name in ("python3", "sh", "gccgo-doc", "ccache-swig", "sccs"):
        assert not trial._COMPILER.match(name), name


def test_an_interpreter_is_asked_what_it_is(tmp_path):
    import sys

    python = ask(sys.executable)
    assert python.version == sys.version.split()[0]
    assert python.tag.startswith(f"cp3{sys.version_info[1]}-")
    assert ask("/bin/false") is None
    with pytest.raises(MachineError, match=r"no Python 2\.7"):
        named("2.7")


def test_a_python_that_is_not_there_is_refused():
    said = CliRunner().invoke(main, ["2.7"])
    assert said.exit_code == 3
    assert "fetch" in said.output
