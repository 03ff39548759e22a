"""Becomes another program after what has to be done between fork and exec. Run as a script; imports nothing of meterd.

A program of its own, since Python code after a fork is not safe in a process with threads, which a gRPC server is.
"""

from __future__ import annotations

import ctypes
import json
import os
import sys

# From <sys/prctl.h>.
_PR_SET_PDEATHSIG = 1


def main(plan_json: str, command: list[str]) -> None:
    """Drops to the plan's user, keeps to its cores, asks for its signal when the parent dies, and runs the command."""
    plan = json.loads(plan_json)
    if plan["cores"] and sys.platform == "linux":
        os.sched_setaffinity(0, plan["cores"])
    if plan["uid"] is not None:
        os.setgroups([])
        os.setgid(plan["gid"])
        os.setuid(plan["uid"])
    if sys.platform == "linux":
        # After setuid, which takes the wish back; before the look at the parent, which may be gone by now.
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.prctl(_PR_SET_PDEATHSIG, plan["parent_death_signal"], 0, 0, 0) != 0:
            raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    if os.getppid() != plan["parent_pid"]:
        sys.exit("the parent is gone")
    os.execv(command[0], command)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
