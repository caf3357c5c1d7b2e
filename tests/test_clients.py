"""Programs that use mrm from outside: built from the installed package, in projects of their own."""

import itertools
import re
import shutil
import sysconfig
from pathlib import Path

import pytest
from installed import ROOT, folder, python, run
from machine import needs_checkout, needs_compiler

import mrm

PACKAGE = Path(mrm.__file__).parent
HEADER = Path(mrm.get_include(), "mrm/mrm.h").read_text()


def project():
    """A copy of the clients, away from the checkout."""
    return shutil.copytree(ROOT / "tests/clients", folder("clients"), dirs_exist_ok=True)


@needs_compiler
def test_c_and_cython_clients_share_a_pool_from_several_threads_without_the_gil():
    pytest.importorskip("cffi")
    here = project()
    python("build_worker.py", cwd=here)
    python("setup.py", "--quiet", "build_ext", "--inplace", cwd=here)
    python("use_both.py", cwd=here)


def test_the_table_by_its_address_alone():
    """cffi's ABI mode: no compiler, no header, one address."""
    pytest.importorskip("cffi")
    python(
        "-c",
        """if True:
        import mrm
        from mrm.cffi import api, ffi
        with mrm.Pool("16MiB", huge="off") as pool:
            handle = api.pool_from_object(ffi.cast("void *", id(pool)))
            frame, place = ffi.new("uint32_t *"), ffi.new("mrm_place *")
            assert api.take(handle, frame) == 0
            api.classify(ffi.cast("void *", pool.address(frame[0]) + 5), place)
            assert (place.frame, place.offset, place.pool) == (frame[0], 5, pool.number)
            assert api.give(handle, frame[0], 0) == 0
            assert api.give(handle, frame[0], 0) == -2
            assert str(frame[0]) in ffi.string(api.failure().text).decode()
            assert api.pool_from_object(ffi.cast("void *", id(api))) == ffi.NULL
            api.pool_release(handle)
        """,
        cwd=folder("abi"),
    )


@pytest.mark.parametrize("python_h", [False, True], ids=["alone", "after Python.h"])
@pytest.mark.parametrize(
    "compiler", [("gcc", "-xc", "-std=c11"), ("g++", "-xc++", "-std=c++17")], ids=["c", "c++"]
)
def test_the_header_compiles_without_a_warning(compiler, python_h):
    if shutil.which(compiler[0]) is None:
        pytest.skip(f"there is no {compiler[0]} here")
    here = folder("header")
    include = "#include <Python.h>\n" if python_h else ""
    one = f"{include}#include <mrm/mrm.h>\nint main(void) {{ return mrm_attach(0) == -1 && !mrm ? 0 : 1; }}\n"
    (here / "one.c").write_text(one)
    # A second file of the same program: both have the same pointer.
    (here / "two.c").write_text(f"{include}#include <mrm/mrm.h>\nconst void *two(void) {{ return &mrm; }}\n")
    folders = ["-I", mrm.get_include(), "-isystem", sysconfig.get_path("include")]
    warnings = ["-Wall", "-Wextra", "-Wpedantic", "-Werror", "-Wno-unused-function"]
    unresolved = ["-Wl,--unresolved-symbols=ignore-all"] if python_h else []
    run(*compiler, *warnings, *folders, "one.c", "two.c", "-o", "both", *unresolved, cwd=here)
    if not python_h:
        run("./both", cwd=here)


# ---- one table, told three times -------------------------------------------------------


def names_in_header(struct):
    """Fields of a struct of the header, in order."""
    end = HEADER.index(f"}} {struct};")
    body = HEADER[HEADER.rindex("{", 0, end) :].partition("\n}")[0]
    body = re.sub(r"/\*.*?\*/", "", body, flags=re.DOTALL)
    return re.findall(r"(?:\(\*)?\b(\w+)\)?(?:\[\d+\])?(?:\([^;]*\))?;", body)


def names_in_pxd(path, struct):
    """Fields that Cython is told of, in order."""
    lines = (PACKAGE / path).read_text().partition(f"ctypedef struct {struct}:\n")[2].splitlines()
    body = "\n".join(itertools.takewhile(lambda line: line.startswith(" " * 8), lines))
    body = re.sub(r"\n {9,}", " ", body)
    return [re.search(r"\(\*(\w+)\)|(\w+)(?:\[\d+\])?$", line).group(1, 2) for line in body.splitlines()]


def in_order(path, struct):
    told = [a or b for a, b in names_in_pxd(path, struct)]
    return told, [name for name in names_in_header(struct) if name != "reserved"]


STRUCTS = re.findall(r"^\} (mrm_\w+);", HEADER, re.MULTILINE)


@pytest.mark.parametrize("struct", STRUCTS)
def test_cimport_gives_what_the_header_declares(struct):
    told, declared = in_order("__init__.pxd", struct)
    assert told == declared


def test_cimport_gives_every_constant():
    constants = re.findall(r"\bMRM_[A-Z_]+(?= = )", HEADER)
    pxd = (PACKAGE / "__init__.pxd").read_text()
    assert constants == re.findall(r"^        (MRM_\w+)$", pxd, re.MULTILINE)[1:]


@needs_checkout
def test_the_table_is_filled_in_the_headers_order():
    told, declared = in_order("_capi.pyx", "mrm_api")
    assert told == declared
    filled = re.findall(r"^table\.(\w+) = ", (PACKAGE / "_capi.pyx").read_text(), re.MULTILINE)
    assert filled == declared


def test_every_function_of_the_table_is_documented():
    api = HEADER.partition("typedef struct mrm_api {")[2].partition("} mrm_api;")[0]
    undocumented = []
    previous = ""
    for line in api.splitlines():
        # Pairs that belong together, such as retain and release, share a comment.
        if "(*" in line and not previous.rstrip().endswith("*/") and "(*" not in previous:
            undocumented.append(line.strip())
        previous = line
    assert not undocumented
