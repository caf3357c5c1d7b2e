"""From a command line to a program that has run."""

import os
import sys
from pathlib import Path

from mrm.errors import Error
from mrm.tools.run import account, program
from mrm.tools.run.memory import put_in_place
from mrm.tools.run.plan import VARIABLE, Plan

FAILED, USAGE = 1, 2


def launch(plan: Plan) -> int:
    """Run the program of a plan in this interpreter; what it raises comes through.

    Returns
    -------
    int
        0 when it has run to its end; 1 when what was asked for cannot be done, 2 when there
        is no such file.
    """
    try:
        memory = put_in_place(plan)
    except Error as error:
        print(f"mrm: {error}", file=sys.stderr)
        return FAILED
    if plan.children:
        tell_children(plan)
    silence = account.at_the_end(memory)
    try:
        program.run(plan)
    except program.NoProgram as error:
        silence()
        print(f"mrm: {error}", file=sys.stderr)
        return USAGE
    return 0


def tell_children(plan: Plan) -> None:
    """Have interpreters that inherit this environment do the same, before anything else (site/)."""
    folder = str(Path(__file__).parent / "site")
    package = str(Path(__file__).parents[3])
    before = os.environ.get("PYTHONPATH")
    os.environ[VARIABLE] = plan.to_variable()
    os.environ["PYTHONPATH"] = os.pathsep.join([folder, *([before] if before else [])])
    if package not in sys.path[1:]:
        os.environ["PYTHONPATH"] += os.pathsep + package
