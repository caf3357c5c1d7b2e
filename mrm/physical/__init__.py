"""Physical memory: the frames that a pool owns, and who may take them.

``bitmap`` finds free frames and runs of them; ``frames`` keeps every frame's state and
the free lists in front of the bitmap; ``funding`` gets the memory from the kernel, and
``limits`` says what stood in the way; ``pool`` puts them together.
"""
