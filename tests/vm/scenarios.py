"""The scenarios under a real systemd. Each scenario is a name and its parts. If a part returns "cut" or "reboot", the boot ends
with a power failure or in order, and the next part runs after the next boot."""

import fcntl
import math
import os
import re
import shutil
import signal
import subprocess
import time

from machine import LOOK, Failed, Load, Rei, expect, run, wait_for

ONE, TWO = Rei("served", 8101), Rei("other", 8102)

# The same flake as in the end-to-end tests: the file `behaviour` says what a version does.
FLAKE = """{
  outputs = { self }: let
    run = verb: derivation {
      name = "served"; system = "x86_64-linux"; builder = "${./served}"; args = [ verb ]; program = "${./served}";
      behaviour = builtins.readFile ./behaviour;
    };
  in {
    packages.x86_64-linux.default = run "make";
    checks.x86_64-linux.tests = run "check";
  };
}
"""
REI_TOML = """[runtime]
name = "%(name)s"
source = "."
command = ["bin/served"]
listen = ["http=127.0.0.1:%(port)d"]
poll = "1s"
start_timeout = "120s"
stop_timeout = "20s"
[health]
http = { listen = "http", path = "/healthz", interval = "200ms", timeout = "20s" }
[promotion]
canary = [{ share = 0.3, for = "4s" }]
observe = "8s"
hold = "20s"
on_inconclusive = "promote"
[evolution]
budget = { per_incident = 3, per_hour = 1000 }
[isolation]
memory = "160MiB"
processes = 300
[state]
directory = "%(state)s"
sockets = "/run/rei/%(name)s"
operators = "rei-operators"
"""
# The score that `systemd-analyze security` may give at most.
EXPOSURE_MAX = 3.0


def install(rei):
    """Makes the service's repository and rei.toml, and installs the unit with the commands that `rei init --systemd` prints."""
    os.makedirs(rei.home)
    run("git", "init", "--quiet", "--initial-branch=main", rei.home)
    run("cp", "/mnt/host/served", f"{rei.home}/served")
    for file, text in [("flake.nix", FLAKE), (".gitignore", "rei*\n"), ("rei.toml", REI_TOML % vars(rei))]:
        with open(f"{rei.home}/{file}", "w") as to:
            to.write(text)
    rei.commit("ok 1")
    said = run("/usr/local/bin/rei", "init", "--systemd", rei.home)
    expect("needs these lines" not in said, said)
    steps = [line.strip() for line in said.splitlines() if line.startswith("  ")]
    expect(len(steps) >= 5, said)
    for step in steps[:-1]:
        run("sh", "-c", step)
    rei.active_pid()


def installed(notes):
    run("cp", "/mnt/host/rei", "/usr/local/bin/rei")
    install(ONE)
    score = float(re.search(r"level for \S+: ([\d.]+)", run("systemd-analyze", "security", ONE.unit)).group(1))
    expect(score <= EXPOSURE_MAX, f"an exposure of {score}")
    seen = {name: ONE.show(name) for name in ["ActiveState", "User", "Type", "NFileDescriptorStore"]}
    expect(seen["ActiveState"] == "active" and seen["User"] == ONE.user, str(seen))
    return f"{run('systemctl', '--version').split(' (')[0]}, kernel {os.uname().release}; {seen}; exposure {score}"


def notified(notes):
    text = ONE.show("StatusText")
    expect("steady" in text.lower(), f"the status is {text!r}")
    expect(ONE.show("WatchdogTimestampMonotonic") != "0", "the watchdog was never fed")
    fed = ONE.show("WatchdogTimestampMonotonic")
    wait_for("the next watchdog message", lambda: ONE.show("WatchdogTimestampMonotonic") != fed)
    return f"READY and WATCHDOG arrived, STATUS is {text!r}"


def daemon(notes):
    profile = f"{ONE.state}/profiles/served"
    path = os.path.realpath(profile)
    owners = {what: os.stat(what).st_uid for what in [path, f"/proc/{ONE.pid()}", f"/proc/{ONE.active_pid()}"]}
    environ = open(f"/proc/{ONE.pid()}/environ", "rb").read()
    expect(b"NIX_REMOTE=daemon" in environ, "rei does not use the daemon")
    uid = os.stat(f"/proc/{ONE.pid()}/task").st_uid
    status = open(f"/proc/{ONE.pid()}/status").read()
    uid = int(re.search(r"^Uid:\s+(\d+)", status, re.M).group(1))
    expect(uid != 0 and os.stat(path).st_uid == 0, f"{owners}")
    roots = run("nix-store", "--query", "--roots", path)
    expect(f"{ONE.state}/profiles/" in roots, f"no garbage collector root: {roots}")
    run("nix-store", "--gc", timeout=600)
    expect(os.path.exists(f"{path}/bin/served"), "Active was collected")
    return f"rei is uid {uid}, {path} is the daemon's and survives a collection; its root is {roots.split(' ->')[0].strip()}"


def steady_under(act, lost=0, same_pid=True):
    """Calls `act` under load; then the same instance must serve."""
    before, load = ONE.active_pid(), Load(ONE)
    try:
        load.more(20)
        said = act()
        load.more(40)
        after = ONE.active_pid()
        expect(not same_pid or after == before, f"the instance was {before} and is {after}")
    finally:
        load.over = True
    return f"{load.finish(lost)}; instance {before}{'' if after == before else f', then {after}'}; {said}"


def watchdog(notes):
    def freeze():
        old, restarts = ONE.pid(), int(ONE.show("NRestarts"))
        os.kill(old, signal.SIGSTOP)
        wait_for("restart by systemd's watchdog", lambda: int(ONE.show("NRestarts")) > restarts)
        ONE.until("an answer", lambda status: status["supervisor"]["pid"] != old)
        said = run("journalctl", "--no-pager", "--output=cat", "--lines=200", "--unit", ONE.unit)
        expect("atchdog timeout" in said, "systemd logged no watchdog timeout")
        return f"supervisor {old} froze, {ONE.pid()} follows"

    return steady_under(freeze)


def restart(notes):
    def thrice():
        seen = []
        for _ in range(3):
            old = ONE.pid()
            run("systemctl", "restart", ONE.unit)
            ONE.until("an answer", lambda status: status["supervisor"]["pid"] not in (old, 0))
            seen.append(ONE.pid())
        expect("opened anew" not in ONE.record_of(), "a listener was lost")
        return f"supervisors {seen}, {ONE.show('NFileDescriptorStore')} descriptors in systemd's store"

    return steady_under(thrice)


def restart_in_an_evolution(notes):
    rev = ONE.commit(f"ok {notes.setdefault('version', 2)}")
    notes["version"] += 1
    load = Load(ONE)
    for phase in ["building", "validating", "canary", "observing"]:
        ONE.until_phase(phase)
        run("systemctl", "restart", ONE.unit)
        ONE.until("an answer", lambda status: True)
    entry = ONE.verdict_on(rev)
    ONE.active_pid()
    seen = load.finish()
    expect(entry.get("action") == "promoted", str(entry))
    return f"one restart in each phase, and the commit is promoted; {seen}"


def reload(notes):
    def reexec():
        pid, started = ONE.pid(), ONE.status()["supervisor"]["started_at"]
        run("systemctl", "reload", ONE.unit)
        status = ONE.until("the new program", lambda status: status["supervisor"]["started_at"] != started)
        expect(ONE.pid() == pid == status["supervisor"]["pid"], "it is another process")
        expect(ONE.show("ActiveState") == "active", ONE.show("ActiveState"))
        fed = ONE.show("WatchdogTimestampMonotonic")
        wait_for("the next watchdog message", lambda: ONE.show("WatchdogTimestampMonotonic") != fed)
        # The new program keeps the same descriptors in systemd's store: they must be enough for another process.
        run("systemctl", "kill", "--kill-whom=main", "--signal=KILL", ONE.unit)
        ONE.until("an answer", lambda status: status["supervisor"]["pid"] not in (pid, 0))
        return f"supervisor {pid} re-executed in place; killed after that, {ONE.pid()} follows"

    return steady_under(reexec)


def kill_supervisor(notes):
    def kill():
        old = ONE.pid()
        run("systemctl", "kill", "--kill-whom=main", "--signal=KILL", ONE.unit)
        ONE.until("an answer", lambda status: status["supervisor"]["pid"] not in (old, 0))
        return f"supervisor {old} killed, {ONE.pid()} follows"

    return steady_under(kill)


def kill_all(notes):
    def kill():
        old = ONE.pid()
        run("systemctl", "kill", "--signal=KILL", ONE.unit)
        ONE.until("an answer", lambda status: status["supervisor"]["pid"] not in (old, 0))
        return "everything was killed; " + ("the next instance served the waiting connections" if keeps() else "the sockets too")

    # The accepted requests of a killed instance are lost: one of each thread. Without a store the keeper is killed, too.
    return steady_under(kill, lost=2 if keeps() else math.inf, same_pid=False)


def keeps():
    """Whether this systemd has the descriptor store that rei uses, and puts the supervisor into its own control group."""
    return int(re.search(r"systemd (\d+)", run("systemctl", "--version")).group(1)) >= 254


def control_groups(notes):
    pid = ONE.active_pid()
    unit, own = ONE.control_group(), "/sys/fs/cgroup" + open(f"/proc/{pid}/cgroup").read().strip().split("::")[1]
    supervisor = open(f"/proc/{ONE.pid()}/cgroup").read().strip().split("::")[1]
    expect(os.path.dirname(own) == unit, f"{own} is not below {unit}")
    read = "no limits (the supervisor is in the unit's own group)"
    if keeps():
        read = bounded(pid, own)

    # A process that an instance leaves behind is killed with it, even in another session.
    stray = subprocess.Popen(["setsid", "sleep", "1000"])
    with open(f"{own}/cgroup.procs", "w") as procs:
        procs.write(str(stray.pid))
    os.kill(pid, signal.SIGKILL)
    expect(stray.wait(60) == -signal.SIGKILL, "the process that the instance left behind lives")
    wait_for("removal of the group", lambda: not os.path.exists(own))
    fresh = wait_for("the next instance", lambda: ONE.active_pid() != pid and ONE.active_pid())
    return f"{read} at {own.removeprefix(unit)}, the supervisor in {os.path.basename(supervisor)}; {pid} crashed, its stray died, {fresh} follows"


def bounded(pid, own):
    read = {name: open(f"{own}/{name}").read().strip() for name in ["memory.max", "pids.max"]}
    expect(read == {"memory.max": str(160 << 20), "pids.max": "300"}, str(read))

    # A greedy process of the instance is killed, and nothing else is.
    greedy = "import os; open('%s/cgroup.procs', 'w').write(str(os.getpid())); x = bytearray(400 << 20); print(len(x))"
    code, said = run("python3", "-c", greedy % own, check=False)
    expect(code == -signal.SIGKILL, f"the greedy process ended with {code}: {said}")
    expect(ONE.show("ActiveState") == "active" and ONE.active_pid() == pid, "more than that process was killed")
    return read


def journald(notes):
    own = ONE.journal("_COMM=rei")
    expect(len(own) > 2, f"{len(own)} lines")
    odd = [it["MESSAGE"] for it in own if re.match(r"<\d>|.*\x1b", it["MESSAGE"]) or "\n" in it["MESSAGE"]]
    expect(not odd, f"lines with control sequences or line breaks: {odd[:3]}")
    by_priority = {}
    for line in own:
        by_priority.setdefault(line["PRIORITY"], []).append(line["MESSAGE"])
    expect(set(by_priority) <= {"3", "4", "6"} and "6" in by_priority, str({k: v[:2] for k, v in by_priority.items()}))
    # A file with two mistakes causes one line, with the priority of an error.
    text = open(ONE.config).read()
    with open(ONE.config, "a") as file:
        file.write("what = 1\nelse = 2\n")
    run("systemctl", "kill", "--kill-whom=main", "--signal=HUP", ONE.unit)

    def errors():
        return [it for it in ONE.journal("_COMM=rei", "-p", "err") if "reload failed: rei.toml is invalid" in it["MESSAGE"]]

    line = wait_for("the error", errors)[-1]
    with open(ONE.config, "w") as file:
        file.write(text)
    expect("what" in line["MESSAGE"] and "else" in line["MESSAGE"], line["MESSAGE"])
    counts = {priority: len(lines) for priority, lines in by_priority.items()}
    return f"lines by priority {counts}; the error: {line['MESSAGE'][:150]!r}"


def operators(notes):
    for user, group in [("ada", "rei-operators"), ("bob", "nogroup")]:
        run("useradd", "--no-create-home", "--gid", "users", "--groups", group, user)
    command = ["/usr/local/bin/rei", "--config", ONE.config]
    status = run("setpriv", "--reuid=ada", "--regid=users", "--init-groups", *command, "status")
    expect("served" in status, status)
    run("setpriv", "--reuid=ada", "--regid=users", "--init-groups", *command, "pause")
    run("setpriv", "--reuid=ada", "--regid=users", "--init-groups", *command, "resume")
    code, refused = run("setpriv", "--reuid=bob", "--regid=users", "--init-groups", *command, "status", check=False)
    expect(code != 0 and "Permission denied" in refused, f"bob got {code}: {refused}")
    modes = run("stat", "--format=%A %U %G", ONE.control).strip()
    return f"ada, of the group, is let in; bob is refused ({refused.strip().splitlines()[0]}); {modes}"


def side_by_side(notes):
    install(TWO)
    before, theirs = TWO.active_pid(), TWO.processes()
    expect(not set(ONE.processes()) & set(theirs), "they share processes")
    load = Load(TWO)
    load.more(10)
    # The actions of one rei must not change the other.
    first = ONE.active_pid()
    os.kill(ONE.pid(), signal.SIGKILL)
    rev = ONE.commit(f"ok {notes.setdefault('version', 2)}")
    notes["version"] += 1
    expect(ONE.verdict_on(rev).get("action") == "promoted", "one does not evolve beside the other")
    run("systemctl", "stop", ONE.unit)
    expect(ONE.processes() == {}, f"left: {ONE.processes()}")
    run("systemctl", "start", ONE.unit)
    ONE.active_pid()
    expect(TWO.active_pid() == before and TWO.processes() == theirs, "the other was touched")
    # An instance of one is no operator of the other, though both their users are of the operators' group.
    group = "/sys/fs/cgroup" + open(f"/proc/{before}/cgroup").read().strip().split("::")[1]
    intruder = (
        f"echo $$ >{group}/cgroup.procs; exec setpriv --reuid={TWO.user} --regid=rei-operators --clear-groups "
        f"/usr/local/bin/rei --config {ONE.config} pause"
    )
    code, refused = run("sh", "-c", intruder, check=False)
    expect(code == 5, f"{ONE.name} did not refuse an instance of {TWO.name}: {code}, {refused}")
    seen = load.finish()
    run("systemctl", "disable", "--now", TWO.unit)
    return f"two reis, two users, {first} and {before}; the other: {seen}; its instance is refused"


def stopped(notes):
    group = ONE.control_group()
    run("systemctl", "stop", ONE.unit)
    expect(ONE.processes() == {}, f"left: {ONE.processes()}")
    left = open(f"{group}/cgroup.procs").read() if os.path.exists(f"{group}/cgroup.procs") else ""
    kept = ONE.show("NFileDescriptorStore")
    expect((left, kept, ONE.show("Result")) == ("", "0", "success"), f"left {left!r}, kept {kept}, {ONE.show('Result')}")
    run("systemctl", "start", ONE.unit)
    return f"no process and no descriptor is left; started again as {ONE.active_pid()}"


def held(rei):
    """Holds the lock of the profile, as nix-env would. A switch waits for the lock, so the phase lasts until the reboot."""
    path = f"{rei.state}/profiles/served.lock"
    lock = open(path, "w")
    shutil.chown(path, rei.user)
    fcntl.flock(lock, fcntl.LOCK_EX)
    return lock


def down_in(phase, how="cut"):
    """A reboot in a phase: an evolution reaches the phase, then the power fails or the machine reboots in order."""

    def down(notes):
        ONE.active_pid()
        before = ONE.status()["active"]["version"]["rev"]
        notes["before"] = before
        ONE.commit(f"ok {phase} {time.time_ns()}")
        lock = None
        if phase == "promoting":
            # rei makes the generation before the candidate has a share; with a locked profile it would reject the candidate then.
            ONE.until("a share for the candidate", lambda it: it["candidate"] and it["candidate"]["share"] > 0)
            lock = held(ONE)
        if phase == "rolling_back":
            ONE.until_phase("observing")
            lock = held(ONE)
            ONE.call("Rollback")
        ONE.until_phase(phase)
        return how

    def up(notes):
        rev = run("git", "-C", ONE.home, "rev-parse", "HEAD").strip()
        first = ONE.until("an answer", lambda status: True)
        ONE.active_pid()
        found = ONE.verdict_on(rev)
        ONE.active_pid()
        status = ONE.status()
        version = status["active"]["version"]
        behaviour = open(f"{version['store_path']}/behaviour").read().strip()
        body = ONE.ask()
        expect(body.endswith(behaviour), f"Active is {behaviour!r}, and {body!r} serves")
        current = os.path.realpath(f"{ONE.state}/profiles/served")
        expect(current == version["store_path"], f"the profile has {current}, Active is {version}")
        entries = [it for it in ONE.call("History", limit=50)["entries"] if rev[:12] in it["summary"]]
        expect(len(entries) == 1, f"{len(entries)} evolutions to one commit: {entries}")
        run("/usr/local/bin/rei", "--config", ONE.config, "journal", "verify")
        return f"continued in {first['phase']}; {found.get('action') or found.get('end')}: {found['summary'][:90]!r}; {body!r} serves"

    return [down, up]


SCENARIOS = [
    ("install: the unit of `rei init --systemd` runs", [installed]),
    ("notify: READY, STATUS, WATCHDOG", [notified]),
    ("daemon: Nix is used by a rei that is not root", [daemon]),
    ("restart: `systemctl restart` under load", [restart]),
    ("restart-evolution: one restart in each phase", [restart_in_an_evolution]),
    ("watchdog: a frozen supervisor is replaced, its instance stays", [watchdog]),
    ("reload: `systemctl reload` re-executes the program in place", [reload]),
    ("kill-main: `systemctl kill` of the supervisor", [kill_supervisor]),
    ("kill-all: `systemctl kill` of everything", [kill_all]),
    ("cgroup: limits, and the kill of a whole process tree", [control_groups]),
    ("journald: each message is one line with its priority", [journald]),
    ("operators: only the group may use the control socket", [operators]),
    ("two: two supervisors on one machine", [side_by_side]),
    ("stop: `systemctl stop` leaves no process and no descriptor", [stopped]),
    ("power: lost in building", down_in("building")),
    ("power: lost in validating", down_in("validating")),
    ("power: lost in canary", down_in("canary")),
    ("power: lost in promoting", down_in("promoting")),
    ("power: lost in observing", down_in("observing")),
    ("power: lost in rolling_back", down_in("rolling_back")),
    ("power: a reboot in order, in observing", down_in("observing", how="reboot")),
]
