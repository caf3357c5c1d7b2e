"""Runs the suites of this folder, one process per subject, and keeps their figures as JSON.

    python bench/run.py [FOLDER] [FILE...]

FOLDER is where the figures go (``.benchmarks`` unless said otherwise), one file per
suite; ``pytest-benchmark compare`` reads them. FILEs are suites; all of them otherwise.
"""

import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent


def main(arguments: list[str]) -> int:
    """Run each suite in a process of its own: 0 when all of them passed."""
    folder = Path(arguments[0] if arguments else ".benchmarks")
    folder.mkdir(parents=True, exist_ok=True)
    suites = [Path(name) for name in arguments[1:]] or sorted(HERE.glob("test_bench_*.py"))
    failed = []
    for suite in suites:
        figures = folder / f"{suite.stem.removeprefix('test_bench_')}.json"
        options = ["-q", "--benchmark-columns=min,median,iqr,ops", f"--benchmark-json={figures}"]
        if subprocess.run([sys.executable, "-m", "pytest", str(suite), *options], check=False).returncode:
            failed.append(suite.name)
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
