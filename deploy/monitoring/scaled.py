#!/usr/bin/env python3
"""The alert rules for a quicker clock: every duration divided by one factor, all else byte for byte as in rules.yml. `make drill` loads
what this writes, so that an alert that takes an hour in production takes two minutes there.

    scaled.py 30 > rules.yml      prints the rules with durations divided by 30
    scaled.py --check             shows that a factor of 1 changes nothing, and that no duration is overlooked

What is a duration: `for`, the `interval` of a group, ranges and their steps, the ages in seconds that `time()`, a lag or a forecast are
compared with. What is none: burn rates, shares, counts, and the five seconds of the latency objective, which are a histogram's bucket.
"""
import re
import sys
from pathlib import Path

RULES = Path(__file__).resolve().parent / "rules.yml"
SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
DURATION = r"[0-9]+[smhd]"
# What is compared with an age or a forecast, and the seconds: a number, or a product of two.
AGE = re.compile(r"^(.*(?:time\(\)|outbox:lag:seconds).* [<>] |.*predict_linear\(.*, )([1-9][0-9]*(?: \* [0-9]+)?)(\)?)$")


def duration(text, factor):
    """A duration divided by the factor, in the largest unit that fits: `1h` becomes `2m`."""
    number, unit = int(text[:-1]), text[-1]
    left = number * SECONDS[unit] * 1000 / factor
    if left != int(left) or left < 1:
        sys.exit(f"{text} divided by {factor} is no whole number of milliseconds")
    for name, seconds in reversed(SECONDS.items()):
        if left % (seconds * 1000) == 0 and (name == unit or factor != 1):
            return f"{int(left // (seconds * 1000))}{name}"
    return f"{int(left)}ms"


def scaled(text, factor):
    lines = []
    for line in text.split("\n"):
        line = re.sub(rf"^(\s+(?:for|interval): )({DURATION})$", lambda m: m[1] + duration(m[2], factor), line)
        line = re.sub(rf"\[({DURATION})(?::({DURATION}))?\]",
                      lambda m: f"[{duration(m[1], factor)}" + (f":{duration(m[2], factor)}" if m[2] else "") + "]", line)
        # A division that is written out shows in Prometheus what was done.
        divided = lambda m: m[1] + m[2] + (f" / {factor}" if factor != 1 else "") + m[3]
        lines.append(AGE.sub(divided, line))
    return "\n".join(lines)


def check():
    """A factor of 1 gives the file; another one changes durations and nothing else, and overlooks none."""
    text = RULES.read_text()
    if scaled(text, 1) != text:
        sys.exit("scaled.py: a factor of 1 changes the rules")
    bare = lambda line: re.sub(rf"{DURATION}|[0-9]+ms| / 30$| / 30\)$|\)$", "", line)
    overlooked, changed = [], 0
    # Of two comparisons with a number in one line only the last would be divided.
    twice = re.search(r"^.*(?:time\(\)|lag:seconds).* [<>] [1-9].* [<>] [0-9].*$", text, re.M)
    if twice:
        sys.exit(f"scaled.py: two comparisons in one line: {twice[0].strip()}")
    for old, new in zip(text.split("\n"), scaled(text, 30).split("\n"), strict=True):
        if old != new:
            changed += 1
            if bare(old) != bare(new):
                sys.exit(f"scaled.py: more than durations changed: {old} became {new}")
        elif not re.match(r"\s+(summary|description|record): ", old) and re.search(
                rf"\[{DURATION}|(for|interval): {DURATION}|(time\(\)|lag:seconds\)?).* [<>] [1-9]|86400|\b3600", old):
            overlooked.append(old)
    if overlooked or changed < 60:
        sys.exit(f"scaled.py: {changed} lines were changed, these were not: {overlooked}")


if __name__ == "__main__":
    if sys.argv[1:] == ["--check"]:
        check()
    elif len(sys.argv) == 2 and sys.argv[1].isdigit():
        sys.stdout.write(scaled(RULES.read_text(), int(sys.argv[1])))
    else:
        sys.exit(__doc__)
