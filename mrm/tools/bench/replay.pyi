from mrm.tools.bench.lanes import Lane

class Replay(Lane):
    """``lane`` without mrm: the same system calls, made by hand."""

    def __init__(self, lane: Lane, touched: bool) -> None: ...
