"""``mrm top`` and ``mrm stats``: other processes' pools, from the books that they publish."""
