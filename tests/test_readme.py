"""What README.md shows is what the examples are, and what they are is tested."""

import re
from pathlib import Path

import pytest
from machine import CHECKOUT, needs_checkout

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text() if CHECKOUT else ""

pytestmark = needs_checkout


@pytest.mark.parametrize(("language", "example"), [("python", "hello.py"), ("c", "hello.c")])
def test_code_is_an_example_word_for_word(language, example):
    shown = re.search(rf"```{language}\n(.*?)```", README, re.DOTALL)
    assert shown is not None
    assert shown[1] in (ROOT / "examples" / example).read_text()


def test_links_lead_somewhere():
    targets = re.findall(r"\]\(([^)#]+)\)", README)
    assert targets
    assert [target for target in targets if not (ROOT / target).exists()] == []


def test_commands_are_make_targets():
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"^    make (\w+)", README, re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
