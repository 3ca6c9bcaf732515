"""What a child process runs before its program: give up root, lower the priority, die with the parent, then exec.

A program of its own instead of a ``preexec_fn``, which may deadlock in a process with threads. It is started by path
(``python -I -S child.py``), so it imports nothing but the standard library and costs some ten milliseconds.

The death signal is set *after* the user is changed, because setuid clears it, and the parent is looked at again
afterwards, because it may have gone before.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import select
import signal
import sys

PR_SET_PDEATHSIG = 1
CLONE_NEWNS = 0x00020000
CLONE_NEWPID = 0x20000000
MS_REC = 0x4000
MS_PRIVATE = 1 << 18
CANNOT_START = 127
"""Exit status when the program cannot be executed, as in a shell."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--parent", type=int, required=True, help="exit at once unless this is our parent")
    parser.add_argument("--death-signal", type=int, required=True, help="sent to the program when the parent ends")
    parser.add_argument("--user", help="run the program as this user (needs root)")
    parser.add_argument("--nice", type=int, default=0)
    parser.add_argument("--contained", action="store_true", help="in process and mount namespaces of its own")
    parser.add_argument("argv", nargs="+")
    options = parser.parse_args()
    if options.nice:
        os.nice(options.nice)
    if options.contained:
        return _contained(options.argv, parent=options.parent)
    if options.user:
        _become(options.user)
    _die_with_parent(options.death_signal)
    if os.getppid() != options.parent:
        return CANNOT_START
    return _execute(options.argv)


def _execute(argv: list[str]) -> int:
    try:
        os.execvp(argv[0], argv)  # noqa: S606 - no shell is wanted
    except OSError as error:
        sys.stderr.write(f"{argv[0]}: {error.strerror}\n")
    return CANNOT_START


def _become(name: str) -> None:
    import pwd

    entry = pwd.getpwnam(name)
    os.initgroups(entry.pw_name, entry.pw_gid)
    os.setgid(entry.pw_gid)
    os.setuid(entry.pw_uid)
    os.environ.update(HOME=entry.pw_dir, USER=name, LOGNAME=name)


def _die_with_parent(number: int) -> None:
    if sys.platform == "linux":
        _call("prctl", PR_SET_PDEATHSIG, number, 0, 0, 0)


def _contained(argv: list[str], *, parent: int) -> int:
    """Run the program below a first process of a new pid namespace: when that one ends, the kernel kills the rest.

    For what leaves processes behind on purpose (an engine's containers). Needs root and Linux. Mounts made inside
    vanish with it, too.
    """
    _die_with_parent(signal.SIGKILL)
    if os.getppid() != parent:
        return CANNOT_START
    _call("unshare", CLONE_NEWPID | CLONE_NEWNS)
    _call("mount", b"none", b"/", None, MS_REC | MS_PRIVATE, None)
    alive, ours = os.pipe()
    first = os.fork()
    if first == 0:
        os.close(ours)
        _die_with_parent(signal.SIGKILL)
        if select.select([alive], [], [], 0)[0]:  # end of file: our parent has gone already
            os._exit(CANNOT_START)
        os.close(alive)
        _call("mount", b"proc", b"/proc", b"proc", 0, None)
        os._exit(_first_process(argv))
    os.close(alive)
    return _wait(first)


def _first_process(argv: list[str]) -> int:
    program = os.fork()
    if program == 0:
        os._exit(_execute(argv))
    return _wait(program)


def _wait(process: int) -> int:
    """Pass SIGTERM on, bury whatever ends, return the exit status of ``process``."""
    signal.signal(signal.SIGTERM, lambda number, _: os.kill(process, number))
    while True:
        ended, status = os.wait()
        if ended == process:
            code = os.waitstatus_to_exitcode(status)
            return code if code >= 0 else 128 - code


def _call(function: str, *arguments: int | bytes | None) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    converted = [ctypes.c_ulong(value) if isinstance(value, int) else value for value in arguments]
    if getattr(libc, function)(*converted) == -1:
        number = ctypes.get_errno()
        raise OSError(number, f"{function}: {os.strerror(number)}")


if __name__ == "__main__":
    sys.exit(main())
