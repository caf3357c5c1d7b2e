"""Frames of a run in the lane ``BatchRuns``."""


cdef enum:
    RUN = 16                    # 32 MiB: what a collector's region may well be
