"""What this machine offers, and what stands in the way.

``findings`` puts it together from what files say (``facts``), from what the process may
do (``rights``), and from what was tried (``probes``, in a process of its own);
``command`` shows it. Features are found by trying each, never by version: kernels are
patched, and containers forbid what a version would promise.
"""
