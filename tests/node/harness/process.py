"""A program under test: its log is read as it comes, so that tests wait for lines and not for time."""

import os
import re
import signal
import subprocess
import threading
import time


class Process:
    def __init__(self, name, command, env=None, netns=None, cwd=None, takes_input=False):
        self.name = name
        self.lines = []
        self._more = threading.Condition()
        full = [*(netns.prefix() if netns else []), *command]
        # A bare environment: what the machine happens to export must not change a test.
        keep = {k: v for k, v in os.environ.items() if k in ("PATH", "HOME") or k.endswith("SAN_OPTIONS") or k.endswith("SYMBOLIZER_PATH")}
        self.popen = subprocess.Popen(full, env={**keep, **(env or {})}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                                      stdin=subprocess.PIPE if takes_input else subprocess.DEVNULL, text=True, errors="replace", cwd=cwd)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def pid(self):
        return self.popen.pid  # nsenter has become the program: same pid

    def _read(self):
        for line in self.popen.stdout:
            with self._more:
                self.lines.append(line.rstrip("\n"))
                self._more.notify_all()
        with self._more:
            self._more.notify_all()

    def mark(self):
        """A place in the log: what is waited for from here on is new."""
        with self._more:
            return len(self.lines)

    def wait_line(self, pattern, since=0, timeout=10.0):
        """The first line from `since` on that the pattern matches."""
        deadline = time.monotonic() + timeout
        seen = since
        with self._more:
            while True:
                for line in self.lines[seen:]:
                    if re.search(pattern, line):
                        return line
                seen = len(self.lines)
                left = deadline - time.monotonic()
                if left <= 0 or (self.popen.poll() is not None and not self._reader.is_alive()):
                    raise AssertionError(f"{self.name} did not log /{pattern}/ within {timeout} s; its log:\n{self.text()}")
                self._more.wait(min(left, 0.2))

    def matching(self, pattern, since=0):
        with self._more:
            return [line for line in self.lines[since:] if re.search(pattern, line)]

    def text(self, since=0):
        return "\n".join(self.lines[since:])

    def alive(self):
        return self.popen.poll() is None

    def signal(self, number):
        self.popen.send_signal(number)

    def wait_exit(self, timeout=15.0):
        code = self.popen.wait(timeout)
        self._reader.join(5)
        return code

    def stop(self):
        """SIGTERM, then SIGKILL: for tear-down only."""
        if self.alive():
            self.popen.terminate()
            try:
                self.popen.wait(3)
            except subprocess.TimeoutExpired:
                self.popen.kill()
                self.popen.wait()
        self._reader.join(5)

    def kill(self):
        if self.alive():
            self.popen.send_signal(signal.SIGKILL)
        self.popen.wait()
        self._reader.join(5)


def eventually(check, what, timeout=10.0, step=0.02):
    """Repeats `check` until it returns something true; for state that nobody announces."""
    deadline = time.monotonic() + timeout
    while True:
        value = check()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout} s: {what}")
        time.sleep(step)
