"""Machines that we do not have, in seconds: kernels booted under QEMU over this machine's files.

    python -m tools.machines matrix              the suite on all machines of lineup.py
    python -m tools.machines run ... -- COMMAND  one command on one machine
    python -m tools.machines kernels             kernels at hand; fetch K gets one

``kernels`` gets Debian's kernel packages, ``initrd`` and ``guest`` are what runs inside,
``shares`` shows this machine's files there, ``host`` drives a balloon, and ``boot`` puts it together. ``lineup``
says which machines there are and ``suites`` which tests run on them; ``record`` notes
each test as it ends, ``matrix`` drives it all, and ``report`` shows what came of it.

The processor is emulated in software: Python runs some seventeen times slower inside, so
times mean nothing. Counts, states, errors and contents are exact.
"""
