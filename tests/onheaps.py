"""What tests of NumPy's arrays on heaps share."""

import warnings

import numpy as np

import mrm
import mrm.numpy

try:
    from numpy._core.multiarray import get_handler_name
except ImportError:
    from numpy.core.multiarray import get_handler_name

__all__ = ["LARGE", "SMALL", "clean", "get_handler_name", "large", "lies_in", "pool_of"]

SMALL, LARGE = 1000, 1 << 20  # bytes, on either side of any threshold here


def large():
    """An array that lies in any heap which is in use."""
    return np.ones(LARGE // 8)


def lies_in(heap, array):
    """Whether an array's data is the heap's."""
    return heap.owns(array.__array_interface__["data"][0])


def clean():
    """Uninstall, and close what arrays without a heap lie in."""
    mrm.numpy.uninstall()
    if mrm.numpy._state.private is not None:
        mrm.numpy._state.private.close()


def pool_of(size):
    """A pool on huge pages, if there are as many."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", mrm.BackingWarning)
        return mrm.Pool(size, name="test")
