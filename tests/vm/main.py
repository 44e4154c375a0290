"""Runs the scenarios, over as many boots as they need, and prints each with its observations."""

import json
import os
import re
import sys
import time
import traceback

from machine import Failed
from scenarios import SCENARIOS

MEMORY = "/var/lib/vm-test.json"


def load():
    try:
        with open(MEMORY) as file:
            return json.load(file)
    except FileNotFoundError:
        return {"scenario": 0, "part": 0, "failed": [], "notes": {}}


def save(memory):
    with open(MEMORY + ".new", "w") as file:
        json.dump(memory, file)
        file.flush()
        os.fsync(file.fileno())
    os.rename(MEMORY + ".new", MEMORY)
    directory = os.open("/var/lib", os.O_RDONLY)
    os.fsync(directory)


def again(hard):
    """Ends this boot: with a power failure if `hard`, else with an orderly reboot."""
    with open(os.environ["STATUS_PORT"], "w") as status:
        status.write("again")
    if hard:
        with open("/proc/sysrq-trigger", "w") as trigger:
            trigger.write("b")
    else:
        os.system("systemctl reboot")
    time.sleep(600)


def main():
    memory = load()
    with open("/mnt/host/only") as file:
        only = file.read().strip()
    while memory["scenario"] < len(SCENARIOS):
        name, parts = SCENARIOS[memory["scenario"]]
        wanted = memory["scenario"] == 0 or re.search(only, name)
        begun = time.monotonic()
        if wanted:
            try:
                part = memory["part"]
                if part + 1 < len(parts):
                    # Saved now, because nothing can be written once the power has failed.
                    save({**memory, "part": part + 1})
                seen = parts[part](memory["notes"])
                if part + 1 < len(parts):
                    again(hard=seen == "cut")
                print(f"ok      {name} ({time.monotonic() - begun:.0f} s): {seen}")
            except Exception as error:
                print(f"FAILED  {name}: {error}")
                if not isinstance(error, Failed):
                    traceback.print_exc()
                os.system("journalctl --no-pager --output=short-monotonic --lines=60 -u 'rei-*' -u nix-daemon")
                memory["failed"].append(name)
                if memory["scenario"] == 0:
                    break
        memory["scenario"] += 1
        memory["part"] = 0
        save(memory)
    failed = memory["failed"]
    print(f"{len(failed)} failed: {', '.join(failed)}" if failed else "all scenarios passed")
    sys.exit(1 if failed else 0)


main()
