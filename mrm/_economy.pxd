"""What was promised of a pool, and how much memory it has: the base of mrm.Pool with the doors to both."""

from mrm._frames cimport Frames


cdef class Economy(Frames):
    cdef object scaler                  # an Autoscaler, or None
    cdef object keeper                  # of settings that were changed for it, or None
