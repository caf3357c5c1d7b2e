"""Types as users see them: a program without mistakes passes, and mistakes are found."""

import importlib
import re

import pytest
from installed import ROOT, folder, site
from machine import CHECKOUT, needs_checkout

pytest.importorskip("mypy")


def check(program):
    """Lines of a program that mypy objects to, by number."""
    import mypy.api

    here = folder("typing")
    said, errors, _ = mypy.api.run(["--strict", "--cache-dir", str(here), "--config-file", "", str(program)])
    assert not errors, errors
    return {int(line): text for line, text in re.findall(rf"{program.name}:(\d+): error: (.*)", said)}, said


@pytest.fixture(autouse=True)
def installed(monkeypatch):
    """mypy looks at the installed package, py.typed and all."""
    monkeypatch.chdir(folder("elsewhere"))
    if CHECKOUT:
        monkeypatch.setenv("MYPYPATH", str(site()))


def test_a_program_without_mistakes_passes():
    objections, said = check(ROOT / "tests/typing/right.py")
    assert not objections, said


def test_every_mistake_is_found():
    program = ROOT / "tests/typing/wrong.py"
    wrong = {i for i, line in enumerate(program.read_text().splitlines(), 1) if line.endswith("# wrong")}
    objections, said = check(program)
    assert set(objections) == wrong, said


@needs_checkout
def test_every_compiled_module_with_names_for_python_has_a_stub():
    for source in (ROOT / "mrm").rglob("*.pyx"):
        name = ".".join(source.relative_to(ROOT).with_suffix("").parts)
        module = importlib.import_module(name)
        own = [key for key, value in vars(module).items() if getattr(value, "__module__", None) == name]
        assert not own or source.with_suffix(".pyi").exists(), f"{name} has {own}, and no stub"
