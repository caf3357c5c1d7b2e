"""``mrm coverage``: the share of a process's memory that really lies on huge pages."""
