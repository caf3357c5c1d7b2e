"""The errors: one family, with figures."""

import errno

import pytest

from mrm import errors

FAMILY = [each for each in vars(errors).values() if isinstance(each, type) and issubclass(each, errors.Error)]


@pytest.mark.parametrize("kind", FAMILY, ids=lambda kind: kind.__name__)
def test_every_error_is_of_the_family_and_carries_its_figures(kind):
    error = kind("what happened", call="mmap", error=errno.ENOMEM, address=0x1000, nbytes=4096)
    assert isinstance(error, errors.Error)
    assert str(error) == "what happened"
    assert (error.call, error.errno, error.address, error.nbytes) == ("mmap", errno.ENOMEM, 0x1000, 4096)
    assert "memory" in error.strerror
    assert kind.__doc__


@pytest.mark.parametrize("kind", FAMILY, ids=lambda kind: kind.__name__)
def test_figures_are_none_where_there_are_none(kind):
    error = kind("what happened")
    assert (error.call, error.errno, error.address, error.nbytes, error.strerror) == (None,) * 5


@pytest.mark.parametrize(
    ("kind", "builtin"),
    [
        (errors.ArgumentError, ValueError),
        (errors.FrameError, ValueError),
        (errors.SlotError, ValueError),
        (errors.OutOfFrames, MemoryError),
        (errors.FundingError, MemoryError),
        (errors.ClosedError, RuntimeError),
        (errors.SystemCallError, RuntimeError),
        (errors.AuditError, AssertionError),
    ],
)
def test_code_that_knows_only_builtin_errors_catches_them(kind, builtin):
    with pytest.raises(builtin):
        raise kind("what happened")


def test_the_warning_is_no_error():
    assert issubclass(errors.BackingWarning, UserWarning)
    assert not issubclass(errors.BackingWarning, errors.Error)
