"""Lua programs on malloc and on a heap of mrm's, side by side: output compared, time and memory measured.

$ python run.py
$ python run.py --program trees --repeat 9 --pool 512MiB

Each run is a process of its own; the two allocators take turns, and who begins changes from round to round, so
that what disturbs the machine disturbs both.
"""

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path

from liblua import LuaMissingError, load

HERE = Path(__file__).resolve().parent
PROGRAMS = sorted(path.stem for path in (HERE / "programs").glob("*.lua"))
SETUPS = ("malloc", "mrm")


class Failed(Exception):
    """A run that ended with an error, or printed something else."""


def run_one(setup: str, program: str, options: argparse.Namespace) -> tuple[str, dict]:
    """What a program printed on one allocator, and its figures."""
    command = [sys.executable, HERE / "one.py", setup, HERE / "programs" / f"{program}.lua"]
    command += [str(options.size)] if options.size else []
    command += [f"--pool={options.pool}", f"--huge={options.huge}"]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    if done.returncode:
        raise Failed(f"{program} on {setup}: {done.stderr.strip() or f'ended with {done.returncode}'}")
    return done.stdout, json.loads(done.stderr.splitlines()[-1])


def compare(program: str, options: argparse.Namespace) -> dict:
    """Run a program on both, in turns; figures of all rounds. Failed if they did not print the same."""
    rounds = {setup: [] for setup in SETUPS}
    printed = None
    for number in range(options.repeat):
        for setup in SETUPS if number % 2 == 0 else SETUPS[::-1]:
            said, figures = run_one(setup, program, options)
            if printed is not None and said != printed:
                raise Failed(f"{program} printed something else on {setup}:\n{said}\ninstead of\n{printed}")
            printed = said
            rounds[setup].append(figures)
    seconds = {setup: [figures["seconds"] for figures in rounds[setup]] for setup in SETUPS}
    return {
        "program": program,
        "printed": printed,
        "seconds": seconds,
        # How many times as fast mrm was, round by round.
        "ratios": [malloc / ours for malloc, ours in zip(*seconds.values(), strict=True)],
        "peak": {setup: max(figures["peak"] for figures in rounds[setup]) for setup in SETUPS},
        "backing": rounds["mrm"][0]["backing"],
        "warning": rounds["mrm"][0]["warning"],
    }


def row(result: dict) -> str:
    """One line of the table."""
    cells = [f"{result['program']:<9}"]
    for setup in SETUPS:
        took = result["seconds"][setup]
        cells.append(f"{statistics.median(took):6.2f} s ({min(took):.2f}-{max(took):.2f})")
    ratios = result["ratios"]
    cells.append(f"{statistics.median(ratios):5.2f} x ({min(ratios):.2f}-{max(ratios):.2f})")
    cells.append("".join(f"{result['peak'][setup] / 2**20:7.1f}" for setup in SETUPS) + " MiB")
    return "  ".join(cells)


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__.partition("\n")[0], epilog=f"Programs: {', '.join(PROGRAMS)}."
    )
    parser.add_argument("--program", action="append", choices=PROGRAMS, metavar="NAME", help="this one (all)")
    parser.add_argument("--repeat", type=int, default=5, metavar="N", help="rounds (5)")
    parser.add_argument("--pool", default="256MiB", metavar="SIZE", help="memory for mrm's heap (256MiB)")
    parser.add_argument(
        "--huge", default="prefer", choices=["require", "prefer", "off"], help="huge pages (prefer)"
    )
    parser.add_argument(
        "--size", type=int, metavar="N", help="the programs' argument, each has its own meaning"
    )
    parser.add_argument("--json", action="store_true", help="all figures, as JSON")
    options = parser.parse_args()
    if options.repeat < 1:
        parser.error("--repeat: at least one round is needed to compare anything")
    try:
        load()
    except LuaMissingError as error:
        print(error, file=sys.stderr)
        return 2
    results = []
    try:
        for program in options.program or PROGRAMS:
            results.append(compare(program, options))
            if options.json:
                continue
            if len(results) == 1:
                if results[0]["warning"]:
                    print(f"mrm: {results[0]['warning']}", file=sys.stderr)
                print(
                    f"mrm's pool is on: {results[0]['backing']}; medians of {options.repeat} rounds (and spread)"
                )
                print(
                    "program    malloc              mrm                 mrm is as fast      peak: malloc, mrm"
                )
            print(row(results[-1]), flush=True)
    except Failed as error:
        print(error, file=sys.stderr)
        return 1
    print(json.dumps({"programs": results}) if options.json else "Both printed the same, each time.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
