"""Run a command on some of the cores and print what it took.

    python measure.py THREADS COMMAND...

prints, as the last line, {"seconds": wall time, "cpu_seconds": user and system time, "megabytes": peak resident memory, "code": exit
status} of the command, which may use the first THREADS of the cores this process has. It is a process of its own, of the standard
library alone, because Linux counts into a child's peak what its parent held when it was started.
"""

import json
import os
import sys
import time


def main(threads: int, command: list[str]) -> None:
    """Runs the command; its output goes to stderr."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = str(threads)
    started = time.perf_counter()
    child = os.fork()
    if child == 0:
        os.dup2(2, 1)
        try:
            os.execvp(command[0], command)
        finally:
            os._exit(127)
    _, status, usage = os.wait4(child, 0)
    seconds = time.perf_counter() - started
    took = {"seconds": seconds, "cpu_seconds": usage.ru_utime + usage.ru_stime, "megabytes": usage.ru_maxrss / 1024}
    print(json.dumps(took | {"code": os.waitstatus_to_exitcode(status)}))


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    main(int(sys.argv[1]), sys.argv[2:])
