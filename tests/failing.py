"""Operations whose system calls are made to fail, one after another."""

import errno

import pytest

import mrm
import mrm.system.calls as calls

WAYS = pytest.mark.parametrize(
    ("times", "error"),
    [
        pytest.param(times, getattr(errno, error), id=f"{error} {how}")
        for times, how, errors in (
            (1, "once", ("ENOMEM", "EINVAL", "EAGAIN")),
            (2, "twice", ("ENOMEM",)),
            (None, "for good", ("ENOMEM", "EINVAL")),
        )
        for error in errors
    ],
)  # fmt: skip

# A close that fails has closed all the same; the script's has not, and would leak.
FAILING = frozenset(calls.KINDS) - {"close"}
# Without these, nothing can be told of what could not be undone.
CHANGING = FAILING - {"openat", "pread"}


def failing(operation, times, error, kinds=FAILING):
    """Run the operation with its first call failing, its second, and so on, until none fails.

    Yields what it raised, or None; the caller looks at the damage and repairs it. An operation
    may do without a call that fails.
    """
    for k in range(1, 200):
        with calls.Script(fail=k, times=times, error=error, kinds=kinds) as script:
            raised = None
            try:
                operation()
            except mrm.Error as refused:
                raised = refused
        yield raised
        if script.counted < k:
            assert raised is None, "nothing has failed"
            return
    raise AssertionError("two hundred calls and more: what does it do?")
