#!/usr/bin/env python3
"""Breaks the rules on purpose, one change at a time: some scenario has to notice each. A change that none notices is a gap in
scenarios.py, and `make rules` fails.

What is changed: every threshold and constant (ten times, a tenth), every comparison (turned round), every condition (left out, joined
the other way), every `for` (gone, four times), every severity, every range (four times, a quarter) and every label matcher, of alerts
and of recorded series alike. A mutant is run with the rules that it needs and the scenarios that touch their metrics; what these expect
of other rules is left out.

    mutate.py                        all rules
    mutate.py OutboxStalled …        only these, by alert or recorded name
"""
import concurrent.futures
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import rules
import scenarios

ALL = [rule for group in rules.groups() for rule in group["rules"]]
RECORDED = {}
for rule in ALL:
    if "record" in rule:
        RECORDED.setdefault(rule["record"], []).append(rule)
DOCUMENTS = [scenarios.minutes().document(), scenarios.days().document(), scenarios.months().document()]

# Changes that mean the same, each with the reason.
SAME = {
    ("outbox:maintenance:holds", "1d four times"): "no end is more than a day ahead",
}


UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def name_of(rule):
    return rule.get("alert") or rule["record"]


def metrics_in(expression):
    return set(re.findall(r"\b(?:outbox[_:][a-z0-9_:]+|up|process_cpu_seconds_total)\b", expression))


def told_of(expression):
    """The alerts whose firing this expression looks at."""
    return {name for names in re.findall(r'ALERTS\{alertname[=!]~"([^"]*)"', expression) for name in names.split("|")}


def closure(rule):
    """The recorded names below this rule, and the scraped ones."""
    below, scraped, todo = set(), set(), [rule["expr"]]
    while todo:
        expression = todo.pop()
        todo += [one["expr"] for one in ALL if one.get("alert") in told_of(expression)]
        for name in metrics_in(expression):
            if name in RECORDED:
                if name not in below:
                    below.add(name)
                    todo += [one["expr"] for one in RECORDED[name]]
            else:
                scraped.add(name)
    return below, scraped


def drop_clauses(expression):
    """The expression with one line, or one `and`/`unless`/`or` line, left out."""
    lines = expression.rstrip("\n").split("\n")
    for at, line in enumerate(lines):
        if re.match(r"\s*(and|unless|or)\b", line):
            rest = lines[:at] + lines[at + 1:]
            if re.match(r"\s*or\s*$", line):
                # The branch goes with its word: once the one in front, once the one behind.
                yield "first branch dropped", "\n".join(lines[:at - 1] + lines[at + 1:])
                yield "second branch dropped", "\n".join(lines[:at] + lines[at + 2:])
            else:
                yield f"dropped: {line.strip()[:60]}", "\n".join(rest)


def expressions(rule):
    expression = rule["expr"]
    for found in re.finditer(r"(>=|<=|==|>|<) (on \(\) group_left \(\) )?([0-9.]+(?: \* [0-9.]+)*)", expression):
        if found.group(3) in ("0", "1") and found.group(1) in (">", "=="):
            continue
        for factor in ("10", "0.1"):
            yield (f"{found.group(0)} times {factor}",
                   expression[:found.start(3)] + f"({found.group(3)}) * {factor}" + expression[found.end(3):])
    for found in re.finditer(r" (>=|<=|==|>|<) ", expression):
        turned = {">": "<", "<": ">", ">=": "<", "<=": ">", "==": "!="}[found.group(1)]
        yield f"{found.group(1)} turned to {turned}", expression[:found.start(1)] + turned + expression[found.end(1):]
    yield from drop_clauses(expression)
    for found in re.finditer(r"\) (and|or)(?= )", expression):
        turned = {"and": "or", "or": "and"}[found.group(1)]
        yield f"{found.group(1)} turned to {turned}", expression[:found.start(1)] + turned + expression[found.end(1):]
    for found in re.finditer(r"(outbox:[a-z_:]+rate[0-9a-z]+ > [0-9.* ]+) and (outbox:[a-z_:]+rate[0-9a-z]+ > [0-9.* ]+)", expression):
        yield "long window dropped", expression[:found.start()] + found.group(2) + expression[found.end():]
        yield "short window dropped", expression[:found.start()] + found.group(1) + expression[found.end():]
    for found in re.finditer(r'([a-z_]+)(=~|!~|!=|=)("[^"]*")', expression):
        turned = {"=": "!=", "!=": "=", "=~": "!~", "!~": "=~"}[found.group(2)]
        yield (f"{found.group(0)} turned to {turned}",
               expression[:found.start(2)] + turned + expression[found.end(2):])
    for found in re.finditer(r" unless on \([a-z, ]*\) [a-z_:]+ == 1(?=\))", expression):
        yield f"dropped:{found.group(0)}", expression[:found.start()] + expression[found.end():]
    for found in re.finditer(r"\[([0-9]+)([smhd])(:[0-9smhd]+)?\]", expression):
        number, unit, step = int(found.group(1)), found.group(2), found.group(3) or ""
        for word, seconds in (("four times", 4 * number * UNITS[unit]), ("a quarter", number * UNITS[unit] // 4)):
            yield f"{number}{unit} {word}", expression[:found.start()] + f"[{seconds}s{step}]" + expression[found.end():]
    for found in re.finditer(r"\bvector\(([0-9.e-]+)\)", expression):
        for factor in ("10", "0.1"):
            yield f"{found.group(0)} times {factor}", expression[:found.start()] + f"vector({found.group(1)} * {factor})"


def mutants():
    """Rule, what was changed, the changed rule."""
    for rule in ALL:
        for what, expression in expressions(rule):
            yield rule, what, {**rule, "expr": expression}
        if "alert" not in rule:
            continue
        if "for" in rule:
            number, unit = int(rule["for"][:-1]), rule["for"][-1]
            yield rule, "for dropped", {key: value for key, value in rule.items() if key != "for"}
            yield rule, "for four times", {**rule, "for": f"{4 * number}{unit}"}
        other = "ticket" if rule["labels"]["severity"] == "page" else "page"
        yield rule, "severity changed", {**rule, "labels": {**rule["labels"], "severity": other}}


def documents_for(rule):
    """The rules that show this one, and the scenarios that touch them, reduced to what they expect of these rules."""
    shown = [rule] if "alert" in rule else []
    if "record" in rule:
        shown = [one for one in ALL if "alert" in one and rule["record"] in closure(one)[0]]
    alerts = {name_of(one) for one in shown}
    # Those that they look at fire as well.
    alerts |= {name for one in shown + [rule] for name in told_of(one["expr"])}
    needed, scraped = set(), set()
    for one in shown + [rule]:
        below, above = closure(one)
        needed |= below
        scraped |= above
    if "record" in rule:
        needed.add(rule["record"])
    for document in DOCUMENTS:
        tests = []
        for test in document["tests"]:
            checks = []
            for check in test["promql_expr_test"]:
                if check["expr"].startswith("ALERTS"):
                    kept = [one for one in check["exp_samples"]
                            if re.search(r'alertname="(\w+)"', one["labels"]).group(1) in alerts]
                    checks.append({**check, "exp_samples": kept})
                elif "record" in rule and rule["record"] in check["expr"]:
                    # What it is computed from has to be there.
                    checks.append(check)
            touched = any(one["exp_samples"] for one in checks)
            changed = set(test["changed"]) & scraped
            if checks and (touched or changed or test["name"].startswith("a healthy") or "just below" in test["name"]):
                series = [one for one in test["input_series"] if one["series"].split("{")[0] in scraped]
                tests.append({"name": test["name"], "interval": test["interval"], "input_series": series,
                              "promql_expr_test": checks})
        if tests:
            yield alerts, needed, json.dumps({**document, "group_eval_order": ["mutant"], "tests": tests})


def is_killed(number, rule, changed, prepared, directory):
    """Some scenario fails, or Prometheus refuses the rule: then the mutant is no rule at all, and proves nothing."""
    for at, (alerts, needed, document) in enumerate(prepared):
        kept = [changed if one is rule else one for one in ALL
                if one is rule or one.get("alert") in alerts or one.get("record") in needed]
        place = Path(directory) / f"{number}-{at}"
        place.mkdir()
        # JSON is YAML, and quicker to write.
        (place / "rules.yml").write_text(json.dumps({"groups": [{"name": "mutant", "rules": kept}]}))
        (place / "test.yml").write_text(document)
        ran = subprocess.run(["promtool", "test", "rules", "test.yml"], cwd=place, capture_output=True, text=True)
        said = ran.stdout + ran.stderr
        if "parse error" in said or "could not parse" in said:
            return None
        if ran.returncode != 0:
            return True
    return False


def main():
    wanted = set(sys.argv[1:])
    todo = [(rule, what, changed) for rule, what, changed in mutants() if not wanted or name_of(rule) in wanted]
    prepared = {}
    for rule, _, _ in todo:
        if id(rule) not in prepared:
            prepared[id(rule)] = list(documents_for(rule))
    survived, no_rules = [], 0
    with tempfile.TemporaryDirectory() as directory, concurrent.futures.ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        # The rules as they are: what is expected of them holds also in the reduced scenarios.
        whole = [pool.submit(is_killed, f"whole{n}", rule, rule, documents, directory)
                 for n, (rule, documents) in enumerate({name_of(r): (r, prepared[id(r)]) for r, _, _ in todo}.values())]
        for one, name in zip(whole, dict.fromkeys(name_of(rule) for rule, _, _ in todo)):
            if one.result():
                sys.exit(f"the scenarios of {name} fail although nothing was changed")
        running = [pool.submit(is_killed, n, rule, changed, prepared[id(rule)], directory)
                   for n, (rule, _, changed) in enumerate(todo)]
        for (rule, what, changed), one in zip(todo, running):
            killed = one.result()
            if killed is None:
                no_rules += 1
            elif not killed and (name_of(rule), what) not in SAME:
                survived.append(f"{name_of(rule)}: {what}")
                print(f"SURVIVED {name_of(rule)}: {what}\n  {changed['expr'].strip()}", flush=True)
    counted = len(todo) - no_rules
    print(f"{counted - len(survived)} of {counted} mutants killed")
    sys.exit(1 if survived or not counted else 0)


if __name__ == "__main__":
    main()
