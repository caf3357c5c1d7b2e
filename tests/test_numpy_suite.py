"""NumPy's own tests about memory, with every array on a heap; `make test-numpy` runs all of NumPy's."""

import pytest
from helpers import ROOT, python
from machine import needs_checkout

pytest.importorskip("numpy")


@needs_checkout
@pytest.mark.timeout(900)
def test_numpys_own_tests_about_memory(tmp_path):
    done = python(ROOT / "tools/numpy_tests.py", "--part", cwd=tmp_path, timeout=880)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert " passed" in done.stdout and "of the heap at most" in done.stdout
    if "are left out" in done.stdout:
        pytest.skip(done.stdout.splitlines()[0])
