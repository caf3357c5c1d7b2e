"""What mrm cannot run on is refused by the compiler, with a sentence: it alone knows the target."""

import shutil
import subprocess

import pytest

import mrm

#: Compilers, and what makes them compile for such a machine; -ffreestanding, as its C library may be missing.
NATIVE = "gcc"
SOURCE = "#include <mrm/mrm.h>\nint main(void) { return 0; }\n"


def compile_for(compiler, *options, language="c"):
    """What the compiler says of a program that includes the header; None if there is no such compiler."""
    if shutil.which(compiler) is None:
        pytest.skip(f"{compiler} is not installed")
    done = subprocess.run(
        [compiler, "-x", language, "-fsyntax-only", "-ffreestanding", f"-I{mrm.get_include()}", *options, "-"],
        input=SOURCE, capture_output=True, text=True, check=False,
    )  # fmt: skip
    return done.returncode, done.stderr


def test_this_machine_is_taken():
    assert compile_for(NATIVE) == (0, "")


def test_arm64_is_taken():
    assert compile_for("aarch64-linux-gnu-gcc") == (0, "")


@pytest.mark.parametrize("language", ["c", "c++"])
def test_32_bits_are_refused(language):
    probe = subprocess.run(
        [NATIVE, "-m32", "-x", "c", "-fsyntax-only", "-"], input="", capture_output=True, text=True, check=False
    ) if shutil.which(NATIVE) else None  # fmt: skip
    if probe is None or probe.returncode:
        pytest.skip(f"{NATIVE} compiles for no machine of 32 bits")
    code, said = compile_for(NATIVE, "-m32", language=language)
    assert code and "mrm needs a machine of 64 bits" in said, said


def test_addresses_of_32_bits_on_a_processor_of_64_are_refused():
    code, said = compile_for(NATIVE, "-U__SIZEOF_POINTER__", "-D__SIZEOF_POINTER__=4")
    assert code and "mrm needs a machine of 64 bits" in said, said


def test_big_endian_is_refused():
    code, said = compile_for("s390x-linux-gnu-gcc")
    assert code and "mrm needs a little-endian machine" in said, said
    assert "64 bits" not in said


def test_big_endian_is_refused_by_what_the_compiler_defines():
    code, said = compile_for(NATIVE, "-U__BYTE_ORDER__", "-D__BYTE_ORDER__=__ORDER_BIG_ENDIAN__")
    assert code and "mrm needs a little-endian machine" in said, said


def test_other_systems_are_refused():
    code, said = compile_for(NATIVE, "-U__linux__")
    assert code and "mrm needs Linux" in said, said
