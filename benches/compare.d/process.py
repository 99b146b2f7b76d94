"""What runs where, and how much CPU has it used? One server process, pinned to a core, with its children."""

import os
import pathlib
import signal
import subprocess
import time

from failure import Failure

TICK = os.sysconf("SC_CLK_TCK")


class Process:
    """A server on one core. Its output goes to a file, shown when it ends early."""

    def __init__(self, name, core, argv, log):
        self.name = name
        self.log = log
        with open(log, "wb") as output:
            self.child = subprocess.Popen(
                ["taskset", "-c", str(core), *map(str, argv)], stdout=output, stderr=output, stdin=subprocess.DEVNULL
            )

    def check_running(self):
        if self.child.poll() is not None:
            said = pathlib.Path(self.log).read_text(errors="replace").strip()[-2000:]
            raise Failure(f"{self.name} ended with {self.child.returncode}; it said:\n{said}")

    def cpu_seconds(self):
        """User and system time of the process and its children, all threads, since they started."""
        self.check_running()
        return sum(cpu_ticks(pid) for pid in family(self.child.pid)) / TICK

    def stop(self):
        if self.child.poll() is not None:
            return
        self.child.send_signal(signal.SIGTERM)
        try:
            self.child.wait(3)
        except subprocess.TimeoutExpired:
            self.child.kill()
            self.child.wait()


class Servers:
    """Servers that run while something is measured: all start on the way in, and stop on the way out, the last one first."""

    def __init__(self):
        self.processes = []

    def start(self):
        raise NotImplementedError

    def serve(self, name, core, argv, log, is_up, what):
        """Starts one and waits until it is up: `is_up` is asked of the process, `what` says what it should do."""
        process = Process(name, core, argv, log)
        self.processes.append(process)

        def up():
            process.check_running()
            return is_up(process)

        wait_until(f"{name} should {what}", 20, up)
        return process

    def __enter__(self):
        try:
            self.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        for process in reversed(self.processes):
            process.stop()


def stat(pid):
    """The fields of /proc/PID/stat after the name, which may hold anything (proc(5))."""
    return pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def cpu_ticks(pid):
    fields = stat(pid)
    return int(fields[11]) + int(fields[12])


def family(root):
    """The process and its children; nginx serves from one."""
    parent = {}
    for entry in pathlib.Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parent[int(entry.name)] = int(stat(entry.name)[1])
            except (FileNotFoundError, ProcessLookupError):
                continue
    return [root] + [pid for pid, of in parent.items() if of == root]


def wait_until(what, seconds, true):
    """Asks until it is so; fails with `what` otherwise."""
    deadline = time.monotonic() + seconds
    while not true():
        if time.monotonic() > deadline:
            raise Failure(f"{what} within {seconds} s; it did not")
        time.sleep(0.05)
