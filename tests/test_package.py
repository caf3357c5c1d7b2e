"""What an sdist and a wheel hold, and what an installed package knows of itself."""

import re
import subprocess
import sys
import tarfile
import zipfile

from installed import ROOT, folder, python, sdist, site, wheel
from machine import needs_checkout


def in_wheel():
    with zipfile.ZipFile(wheel()) as archive:
        return set(archive.namelist())


def below(directory, *patterns):
    """Files of the checkout's folder, as paths from its root."""
    return {str(path.relative_to(ROOT)) for pattern in patterns for path in (ROOT / directory).rglob(pattern)}


@needs_checkout
def test_the_wheel_holds_what_users_compile_and_check_against():
    assert below("mrm", "*.pxd", "*.pyi", "*.py", "*.h") - in_wheel() == set()
    assert {"mrm/py.typed", "mrm/include/mrm/mrm.h"} <= in_wheel()


@needs_checkout
def test_the_wheel_holds_every_module_compiled():
    compiled = {re.sub(r"\.[^/]*$", "", name) for name in in_wheel() if name.endswith(".so")}
    assert compiled == {name.removesuffix(".pyx") for name in below("mrm", "*.pyx")}


@needs_checkout
def test_the_wheel_holds_nothing_else():
    metadata = {name for name in in_wheel() if ".dist-info/" in name}
    assert {name.partition("/")[0] for name in in_wheel() - metadata} == {"mrm"}
    assert not [name for name in in_wheel() if name.endswith((".c", ".pyx", ".pyc", ".o"))]
    assert [name for name in metadata if name.endswith("/LICENSE")]


@needs_checkout
def test_the_sdist_holds_all_that_a_clone_needs_to_build_and_test():
    with tarfile.open(sdist()) as archive:
        held = {name.partition("/")[2] for name in archive.getnames()}
    assert {"Makefile", "LICENSE", "README.md", "pyproject.toml", "setup.py", "tools/find-python"} <= held
    made = below("examples", "*.pyc", "*.so") | below("examples/runtime", "*.c", "build/**/*.*", "*.egg-info")
    assert (
        below("mrm", "*.pyx", "*.pxd", "*.py", "*.h")
        | below("include", "*.h")
        | (below("examples", "*.*") - made)
        <= held
    )
    assert not held & made
    assert below("tests", "test_*.py") | below("tests/clients", "*.*") <= held
    assert not [name for name in held if name.endswith((".so", ".pyc", ".o"))]
    assert not [name for name in held if name.endswith(".c") and name.startswith("mrm/")]


def test_an_installed_package_finds_its_header_and_itself():
    said = python("-c", "import mrm; print(mrm.get_include(), mrm.__file__)", cwd=folder("elsewhere")).split()
    assert said == [f"{site()}/mrm/include", f"{site()}/mrm/__init__.py"]


@needs_checkout
def test_a_checkout_gives_the_header_that_it_is_built_with():
    import mrm

    assert mrm.get_include() == str(ROOT / "include")


@needs_checkout
def test_the_version_is_told_once():
    import mrm

    assert f'version = "{mrm.__version__}"' in (ROOT / "pyproject.toml").read_text()


def test_importing_mrm_needs_no_other_package():
    code = "import sys, mrm; print([m for m in ('numpy', 'click', 'rich', 'cffi', 'Cython') if m in sys.modules])"
    assert python("-c", code, cwd=folder("elsewhere")).strip() == "[]"


def test_importing_mrm_imports_no_more_of_python_than_it_needs():
    """OpenSSL for a random name, and JSON for who asks for it, were a tenth of the import."""
    code = "import sys; had = {*sys.modules}; import mrm; print({'secrets', 'hashlib', 'json'} & {*sys.modules} - had)"
    assert python("-c", code, cwd=folder("elsewhere")).strip() == "set()"


def test_what_is_seldom_used_is_imported_when_it_is():
    code = """
import sys, mrm
late = {"mrm._balloon", "mrm.physical.autoscale"}
assert not late & sys.modules.keys()
assert {"Autoscaler", "Deflation", "Pool"} <= set(dir(mrm))
assert [mrm.Autoscaler.__name__, mrm.Deflation.__name__] == ["Autoscaler", "Deflation"]
assert late <= sys.modules.keys()
try:
    mrm.Autoscalar
except AttributeError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "module 'mrm' has no attribute 'Autoscalar'\n"
