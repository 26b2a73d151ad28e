"""The Docker engine: build, push, disk.

::

    plan ── dockerfile (context) ── docker (build) ── push
                  └── stage (inside the builder stage) ── log (read on the host)
"""
