"""mrm as wheels: made for each Python, repaired, looked into, and tested as installed.

    python -m tools.wheels                      for every Python that is found
    python -m tools.wheels python3.12 3.14      for these
    python -m tools.wheels fetch 3.14 3.13t     get a Python, from Debian's packages

``pythons`` finds interpreters, ``debian`` gets those that this machine lacks; ``make``
makes the archives and looks into them, ``trial`` installs a wheel in a fresh
environment and runs the tests there, far from the sources, and ``report`` shows what
came of it.
"""
