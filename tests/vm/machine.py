"""Helpers of the scenarios: systemd, rei's control socket, the processes of the service, and load on the service."""

import json
import os
import re
import socket
import subprocess
import threading
import time

# The time limit of a wait for a fact, in seconds: the processor is emulated, and shared.
FACT = 600
# The pause between two polls, in seconds.
LOOK = 0.05


class Failed(Exception):
    """A fact is not as expected."""


def run(*words, check=True, user=None, timeout=FACT):
    """Runs a command; returns its output."""
    if user:
        words = ("setpriv", f"--reuid={user}", f"--regid={user}", "--init-groups", *words)
    done = subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=timeout)
    if check and done.returncode != 0:
        raise Failed(f"{' '.join(words)} exited with {done.returncode}: {done.stdout.strip()[-2000:]}")
    return done.stdout if check else (done.returncode, done.stdout)


def wait_for(what, find, within=FACT):
    """Calls `find` until it returns a value; returns that value."""
    end = time.monotonic() + within
    while True:
        found = find()
        if found:
            return found
        if time.monotonic() > end:
            raise Failed(f"no {what} in {within} s")
        time.sleep(LOOK)


def expect(fact, otherwise):
    if not fact:
        raise Failed(otherwise)


class Rei:
    """One rei on this machine, with its own service."""

    def __init__(self, name, port):
        self.name, self.port = name, port
        self.unit, self.user = f"rei-{name}", f"rei-{name}"
        self.home = f"/srv/{name}"
        self.config = f"{self.home}/rei.toml"
        self.state = f"/var/lib/rei/{name}"
        self.control = f"/run/rei/{name}/control.sock"

    # The state of the unit, from systemd.

    def show(self, name):
        return run("systemctl", "show", "--property", name, "--value", self.unit).strip()

    def pid(self):
        return int(self.show("MainPID"))

    def control_group(self):
        return "/sys/fs/cgroup" + self.show("ControlGroup")

    def journal(self, *more, invocation=False):
        words = ["journalctl", "--no-pager", "--output=json", "--unit", self.unit, *more]
        lines = [json.loads(line) for line in run(*words).splitlines()]
        return [line for line in lines if isinstance(line.get("MESSAGE"), str)]

    # The state of rei, from its control socket.

    def call(self, method, **parameters):
        """One call on the control socket."""
        with socket.socket(socket.AF_UNIX) as stream:
            stream.settimeout(30)
            stream.connect(self.control)
            message = {"method": f"io.openexec.Supervisor.{method}", "parameters": parameters}
            stream.sendall(json.dumps(message).encode() + b"\0")
            answer = b""
            while not answer.endswith(b"\0"):
                part = stream.recv(1 << 16)
                if not part:
                    raise ConnectionError("the supervisor hung up")
                answer += part
        answer = json.loads(answer[:-1])
        if "error" in answer:
            raise Failed(f"{method}: {answer}")
        return answer["parameters"]

    def status(self):
        """The status for an operator; None if rei does not answer."""
        try:
            return self.call("Status")["status"]
        except OSError:
            return None

    def until(self, what, holds, within=FACT):
        def find():
            status = self.status()
            return status if status and holds(status) else None

        return wait_for(what, find, within)

    def until_phase(self, phase):
        return self.until(phase, lambda status: status["phase"] == phase)

    def active_pid(self):
        """The process of the serving instance, in phase steady."""

        def pids(status):
            active = status.get("active") or {}
            return [it["usage"]["pid"] for it in active.get("instances", []) if it["state"] == "serving"]

        status = self.until("steady", lambda it: it["phase"] == "steady" and pids(it))
        return pids(status)[0]

    # The service of this rei.

    def commit(self, behaviour):
        """Commits a new version of the service; returns the commit."""
        with open(f"{self.home}/behaviour", "w") as file:
            file.write(behaviour + "\n")
        # The tests are not about the source: git syncs it to disk before the power fails.
        git = ["git", "-C", self.home, "-c", "core.fsync=all", "-c", "user.name=test", "-c", "user.email=test@example.org"]
        run(*git, "add", "--all")
        run(*git, "commit", "--quiet", "--message", behaviour)
        return run(*git, "rev-parse", "HEAD").strip()

    def ask(self, path="/", timeout=60):
        """The body of an answer on a new connection."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=timeout) as stream:
            stream.sendall(f"GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n".encode())
            answer = b""
            while part := stream.recv(1 << 16):
                answer += part
        expect(answer.startswith(b"HTTP/1.1 200"), f"the answer {answer!r}")
        return answer.split(b"\r\n\r\n", 1)[1].decode()

    def processes(self):
        """The live processes of the service: pid and instance."""
        found = {}
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                with open(f"/proc/{pid}/environ", "rb") as file:
                    words = file.read().split(b"\0")
            except OSError:
                continue
            instance = [word[len(b"REI_INSTANCE="):].decode() for word in words if word.startswith(b"REI_INSTANCE=")]
            if instance and f"STATE_DIRECTORY={self.state}/runtime".encode() in words:
                found[int(pid)] = instance[0]
        return found

    def verdict_on(self, rev):
        """How the evolution to a commit ended."""

        def find():
            try:
                entries = self.call("History", limit=50)["entries"]
            except OSError:
                return None
            return next((it for it in entries if it.get("finished_at") and rev[:12] in it["summary"]), None)

        return wait_for(f"end of the evolution to {rev[:12]}", find)

    def record_of(self):
        """The unit's log, for a person."""
        return run("journalctl", "--no-pager", "--lines=40", "--output=cat", "--unit", self.unit)


class Load:
    """Threads that send requests, each on a new connection; another thread looks for second copies of an instance."""

    def __init__(self, rei, threads=2):
        self.rei, self.asked, self.lost, self.longest, self.over = rei, 0, [], 0.0, False
        self.copies = []
        self.lock = threading.Lock()
        self.threads = [threading.Thread(target=self.work, daemon=True) for _ in range(threads)]
        self.threads.append(threading.Thread(target=self.count, daemon=True))
        for thread in self.threads:
            thread.start()

    def work(self):
        while not self.over:
            begun = time.monotonic()
            try:
                body = self.rei.ask()
                error = None if body.startswith("hello from") else body
            except Exception as failure:  # any error means that a client lost a request
                error = repr(failure)
            with self.lock:
                self.asked += 1
                self.longest = max(self.longest, time.monotonic() - begun)
                if error:
                    self.lost.append(error)
            time.sleep(0.02)

    def count(self):
        while not self.over:
            instances = list(self.rei.processes().values())
            twice = {it for it in instances if instances.count(it) > 1}
            if twice:
                self.copies.append(f"{twice} of {instances}")
            time.sleep(0.2)

    def more(self, count):
        """Waits until that many more requests have an answer."""
        aim = self.asked + count
        wait_for(f"{count} more answers", lambda: self.asked >= aim)

    def finish(self, lost=0):
        """Stops the load; fails if more than `lost` requests were lost, or if an instance had a second copy."""
        self.over = True
        for thread in self.threads:
            thread.join(90)
        expect(len(self.lost) <= lost, f"{len(self.lost)} of {self.asked} requests lost: {self.lost[:3]}")
        expect(not self.copies, f"a second copy: {self.copies[:3]}")
        return f"{self.asked} requests, {len(self.lost)} lost, the slowest {self.longest:.1f} s"


def directives(unit):
    """The directives of a unit that are in force, from systemd."""
    return dict(re.findall(r"^(\w+)=(.*)$", run("systemctl", "show", unit), re.M))
