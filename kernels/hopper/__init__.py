"""Attention's kernels for Hopper, in Gluon: what Triton's own pipelining leaves on the table.

Each is a persistent grid of one block a multiprocessor: one warp moves tiles by TMA through a ring
of shared memory, three warpgroups multiply, each 64 rows of its own, and never wait for another.
"""
