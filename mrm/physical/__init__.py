"""Physical memory: the frames that a pool owns, and who may take them.

``bitmap`` finds free frames and runs of them; ``frames`` keeps every frame's state and
the free lists in front of the bitmap, which are taken from, and ``giving`` puts back; ``nodes`` and
``near`` tell frames apart by nodes; ``pool`` puts them together.

``funding`` gets the memory from the kernel, of one of the ``backings``, by an ``order``: ``framefile`` is
the file that it lies in, ``filling`` fetches its pages, ``labour`` are the threads that do,
``placement`` is where it came to lie; ``limits`` and ``cgroups`` say what the machine allows, and
which limit stood in the way.

``kernelpool`` changes what the kernel has set aside; ``keeping`` has that done, and undone, by a
process of its own, which is ``keeper``.

``autoscale`` grows and shrinks a pool in a thread, ``watch``: ``pressure`` has the events that it waits
for, ``readings`` how things stand, ``scaling`` the rules by which it decides.
"""
