"""Waiting for a condition, and finding free ports."""

import inspect
import os
import random
import socket
import time

from . import SLOW


def _source(condition):
    try:
        return inspect.getsource(condition).strip()
    except OSError:
        return condition.__name__


def wait_for(condition, timeout=5, what=None):
    """The first true value of condition(); fails after timeout seconds (times
    the machine's slowness)."""
    end = time.monotonic() + timeout * SLOW
    pause = 0.001
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            raise AssertionError(f"waited in vain for "
                                 f"{what or _source(condition)}")
        time.sleep(pause)
        pause = min(pause * 1.5, 0.05)


# below the range from which the kernel takes ports for outgoing connections,
# so that nobody gets one between the look and the use but another listener;
# pytest's workers share the ports out, and do not meet
_random = random.Random(os.getpid() ^ time.time_ns())
_sharers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
_share = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
_given = set()


def free_port(host="127.0.0.1"):
    while True:
        port = _random.randrange(12000 + _share, 32000, _sharers)
        if port in _given:
            continue
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        with socket.socket(family) as s:
            s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                s.bind((host, port))
            except OSError:
                continue
        _given.add(port)
        return port


def processes(group=None, session=None):
    """Pids of a process group or session, zombies left out."""
    found = []
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            with open(f"/proc/{name}/stat") as f:
                fields = f.read().rpartition(")")[2].split()
        except OSError:
            continue
        if fields[0] in "ZX":
            continue
        if (group is None or int(fields[2]) == group) and \
           (session is None or int(fields[3]) == session):
            found.append(int(name))
    return found
