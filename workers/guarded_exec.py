"""Become another program that ends when our parent does, optionally as another user and in another root folder.

    python -I -S guarded_exec.py PARENT_PID UID:GID|- ROOT|- PROGRAM [ARGUMENT ...]

Started as a script, in a process of its own, so that nothing runs between fork and exec in a parent with threads.
The order is what matters: Linux forgets the parent's-death signal when the user changes, so it is asked for last.
That signal also comes when the *thread* that started us ends: start long-lived servers from a long-lived thread.

It gets SIGINT when the parent dies: PostgreSQL's fast shutdown, and the end of most other programs.
"""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def main(parent: int, user: str, root: str, command: list[str]) -> None:
    """Replace this process by `command`, looked up inside `root`. Raises OSError with the reason if it cannot."""
    libc = ctypes.CDLL(None, use_errno=True)
    if root != "-":
        os.chroot(root)
        os.chdir("/")
    if user != "-":
        uid, gid = (int(part) for part in user.split(":"))
        os.setgroups([])
        os.setgid(gid)
        os.setuid(uid)
    if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGINT, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    if os.getppid() != parent:
        # The parent died before we asked for the signal.
        sys.exit(1)
    # Python ignores these two, and what is ignored stays so across exec.
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    os.execv(command[0], command)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], sys.argv[3], sys.argv[4:])
