"""What an address is, and what shows a frame."""

from mrm.stats import Place

def classify(address: int) -> Place: ...
