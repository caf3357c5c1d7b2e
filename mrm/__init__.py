"""mrm: the memory manager under a managed runtime."""
