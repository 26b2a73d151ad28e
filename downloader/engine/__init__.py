"""The Docker engine: build, push, disk.

::

    plan ── dockerfile (context) ── docker (build) ── push      heartbeat beside both
                  └── stage (inside the builder stage) ── log (read on the host)
"""
