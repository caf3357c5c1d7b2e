"""The examples do what they say, by the commands that they say it with, on the installed package."""

import os
import re
import shutil
import sys
from pathlib import Path

import pytest
from installed import ROOT, folder, run, site
from machine import needs_checkout

pytestmark = needs_checkout

# What each prints, once it has done what it shows.
SAID = {
    "economy.py": r"account 'cache' can have 0: .*\nframes .* short of: 1 - .*\n(.*\n)*20 frames held; 15 at",
    "arrays.py": r"exported buffers look through it.*\n262144 numbers, .*\n16 MiB in one array, trace 2048",
    "balloon.py": r"gave 30 frames back; 4 MiB are left\n(.*\n)*fetched 128 .*\n62 frames more: .*\nstill in frame 0",
    "compact.pyx": r"16 pages moved by \d system calls and 0 shootdowns;\n.* by 1 and 1",
    "heal.c": r"is stale: .*\nread x, x through a trap, and x without",
    "hello.c": r"hello at 0x",
    "scaling.py": r"watch: watching .*\n(.* grow \d+ frames? from the .*\n)+(.*\n)*20 frames taken; \d+ MiB of 64",
    "register.py": r"frame 0 is registered: True\nand all of them: True",
    "workers.py": r"spawn \['frame 0: 262144', 'frame 1: 524288', 'frame 2: 786432'\]\nforkserver \['frame 0: 262144'",
    "hello.py": r"b'hello' moved from 0x.* to 0x.*\nPlace\(kind='view', state='retired'",
}


def test_every_example_is_tested():
    assert set(SAID) == {example.name for example in (ROOT / "examples").iterdir() if example.is_file()}


@pytest.mark.parametrize("example", SAID)
def test_example(example):
    here = shutil.copytree(ROOT / "examples", folder("examples"), dirs_exist_ok=True)
    # Its opening comment says how it is run, in lines that begin with a dollar sign.
    commands = re.findall(r"^[ *]*\$ (.*)$", (here / example).read_text(), re.MULTILINE)
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    script = "set -e\n" + "\n".join(commands)
    said = run("bash", "-c", script, cwd=here, PATH=path, PYTHONPATH=str(site()), PYTHONWARNINGS="ignore")
    assert re.search(SAID[example], said), said
