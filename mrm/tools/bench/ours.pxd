"""Frames of a run in the lane ``BatchRuns``."""


cdef enum:
    RUN = 16                    # 32 MiB of 2 MiB pages: what a collector's region may well be
