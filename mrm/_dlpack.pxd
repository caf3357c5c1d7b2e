"""Bytes as a DLPack tensor."""


cdef object capsule_of(object exporter, object stream, object max_version, object dl_device, object copy)
cdef tuple device()
