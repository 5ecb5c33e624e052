#!/usr/bin/env bash
# Lines of a crontab, as a nightly job has them, and when four libraries run them from Sunday the 1st
# of November 2026 on. crontab(5): 0 and 7 are Sunday, and a line that names days of the month and
# days of the week runs on either.
#
# Seen with croniter 7.0.0, cronsim 2.8, apscheduler 3.11.3, pycron 3.3.0:
#   APScheduler's `from_crontab` counts days of the week from Monday: `1-5` is Tuesday to Saturday. It
#   wants both days where cron takes either, so that "the 13th, and Fridays" runs on Saturdays alone,
#   five times in 26 months. `7` it refuses.
#   pycron takes 7 for no day: a line of Sunday never runs, and `5-7` leaves Sunday out.
#   `*/10` in the days of the month makes "and" of the "or" for cronsim and pycron, as for Debian's
#   cron, but not for croniter.
# So a line that was tested in a crontab starts the job on other days, or never, in a scheduler that
# says that it reads crontabs; names (`mon-fri`) mean the same to all four.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q croniter==7.0.0 cronsim==2.8 apscheduler==3.11.3 pycron==3.3.0
"$work/venv/bin/python" - <<'PY'
from datetime import datetime, timedelta, timezone
from importlib.metadata import version

import pycron
from apscheduler.triggers.cron import CronTrigger
from croniter import croniter
from cronsim import CronSim

START, RUNS = datetime(2026, 11, 1), 5


def by_croniter(line):
    runs = croniter(line, START)
    return [runs.get_next(datetime) for _ in range(RUNS)]


def by_cronsim(line):
    runs = CronSim(line, START)
    return [next(runs) for _ in range(RUNS)]


def by_apscheduler(line):
    trigger = CronTrigger.from_crontab(line, timezone="UTC")
    found, now = [], START.replace(tzinfo=timezone.utc)
    for _ in range(RUNS):
        found.append(trigger.get_next_fire_time(None, now))
        now = found[-1] + timedelta(seconds=1)
    return found


def by_pycron(line):
    """Within a year: it is asked of each moment whether the job is due."""
    times = (START + timedelta(minutes=5 * step) for step in range(366 * 24 * 12))
    found = []
    while len(found) < RUNS and (time := next(times, None)):
        if pycron.is_now(line, time):
            found.append(time)
    return found


LIBRARIES = {
    "croniter": by_croniter,
    "cronsim": by_cronsim,
    "apscheduler": by_apscheduler,
    "pycron": by_pycron,
}


def told(runs, line):
    try:
        return ", ".join(f"{time:%a %d.%m.%y %H:%M}" for time in runs(line)) or "never"
    except ValueError:
        return "refuses"


LINES = [
    "0 3 * * mon-fri",
    "0 3 * * 1-5",
    "0 3 * * 7",
    "0 3 * * 5-7",
    "0 3 13 * 5",
    "0 3 */10 * 5",
]
print(*(f"{name} {version(name)}" for name in LIBRARIES), sep=", ")
seen = {}
for line in LINES:
    print(line)
    seen[line] = {name: told(runs, line) for name, runs in LIBRARIES.items()}
    for name, runs in seen[line].items():
        print(f"    {name:12} {runs}")


def days(line, name):
    return " ".join(run[:3] for run in seen[line][name].split(", "))


assert len(set(seen["0 3 * * mon-fri"].values())) == 1
for name, week in {"apscheduler": "Tue Wed Thu Fri Sat", "pycron": "Mon Tue Wed Thu Fri"}.items():
    assert days("0 3 * * 1-5", name) == week, name
assert days("0 3 * * 7", "croniter") == days("0 3 * * 7", "cronsim") == " ".join(["Sun"] * 5)
assert (seen["0 3 * * 7"]["apscheduler"], seen["0 3 * * 7"]["pycron"]) == ("refuses", "never")
assert days("0 3 * * 5-7", "cronsim") == "Sun Fri Sat Sun Fri"
assert days("0 3 * * 5-7", "pycron") == "Fri Sat Fri Sat Fri"
either, both = seen["0 3 13 * 5"], "Fri 06.11.26 03:00, Fri 13.11.26 03:00"
assert all(either[name].startswith(both) for name in ("croniter", "cronsim", "pycron"))
assert either["apscheduler"].startswith("Sat 13.02.27") and "Sat 13.01.29" in either["apscheduler"]
assert days("0 3 13 * 5", "apscheduler") == " ".join(["Sat"] * 5)
tenth = seen["0 3 */10 * 5"]
assert tenth["cronsim"].startswith("Fri 11.12.26 03:00, Fri 01.01.27 03:00")
assert tenth["pycron"].startswith("Fri 11.12.26 03:00, Fri 01.01.27 03:00")
assert tenth["croniter"].startswith("Sun 01.11.26 03:00, Fri 06.11.26 03:00")
PY
