#!/usr/bin/env python3
"""Lints the dashboards: what a reader needs stands on every panel, and every query is one that Prometheus understands. That the names
in them exist is a test of the relay (tests/it/metrics_page.rs and runbooks.rs). `make rules` runs it; it needs no Grafana."""
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

DASHBOARDS = sorted((Path(__file__).resolve().parent.parent / "grafana/dashboards").glob("*.json"))


def problems(name, dashboard):
    """What is wrong, a sentence each; and the queries."""
    found, queries, ids, taken = [], [], set(), []
    variables = {one["name"]: one for one in dashboard["templating"]["list"]}
    if {"datasource", "job"} - set(variables):
        found.append("has no variables datasource and job")
    if dashboard["editable"]:
        found.append("can be edited by hand, where nobody sees it")
    if not dashboard.get("description") or not dashboard.get("uid", "").startswith("outbox-"):
        found.append("has no description, or no uid that alerts can link to")
    for panel in dashboard["panels"]:
        title = panel.get("title") or "a panel without a title"
        if panel["id"] in ids:
            found.append(f"{title}: its id is taken")
        ids.add(panel["id"])
        place = panel["gridPos"]
        cells = {(x, y) for x in range(place["x"], place["x"] + place["w"]) for y in range(place["y"], place["y"] + place["h"])}
        if any(cells & other for other in taken) or place["x"] + place["w"] > 24:
            found.append(f"{title}: lies upon another panel, or outside")
        taken.append(cells)
        if panel["type"] == "row":
            continue
        if not panel.get("title") or not panel.get("description"):
            found.append(f"{title}: has no title or no description")
        if not panel["fieldConfig"]["defaults"].get("unit"):
            found.append(f"{title}: has no unit")
        if not panel["targets"]:
            found.append(f"{title}: asks nothing")
        for target in panel["targets"]:
            query = target["expr"]
            if "${datasource}" not in (panel["datasource"]["uid"], ) or target["datasource"]["uid"] != "${datasource}":
                found.append(f"{title}: its data source is not the variable")
            for metric in re.findall(r"\b(?:outbox[_:]|process_)[a-z0-9_:]+(?!\()(.?)", query):
                if metric != "{":
                    found.append(f"{title}: a series is not limited to the job: {query}")
            for selector in re.findall(r"\{([^{}]*)\}", query):
                if 'job=~"$job"' not in selector:
                    found.append(f"{title}: a series is not limited to the job: {query}")
            for window in re.findall(r"\brate\([^\[]*\[([^\]]+)\]", query):
                if window not in ("$__rate_interval", "5m"):
                    found.append(f"{title}: rate over a window of its own")
            # What turns "nothing happened" into a figure.
            if re.search(r"or\s+(on\s*\(\)\s*)?vector\(", query):
                found.append(f"{title}: shows a number where there is none")
            queries.append(query)
    return [f"{name}: {one}" for one in found], queries


def main():
    found, queries = [], []
    for path in DASHBOARDS:
        wrong, asked = problems(path.name, json.loads(path.read_text()))
        found += wrong
        queries += asked
    if len(DASHBOARDS) != 3 or len(queries) < 40:
        found.append(f"{len(DASHBOARDS)} dashboards with {len(queries)} queries")
    concrete = [query.replace("$__rate_interval", "5m").replace("$job", ".+") for query in queries]
    rules = [{"record": f"lint:query:{at}", "expr": query} for at, query in enumerate(concrete)]
    with tempfile.NamedTemporaryFile("w", suffix=".yml") as file:
        json.dump({"groups": [{"name": "queries", "rules": rules}]}, file)
        file.flush()
        checked = subprocess.run(["promtool", "check", "rules", file.name], capture_output=True, text=True, check=False)
    if checked.returncode != 0:
        found.append(checked.stderr)
    # A lint that cannot fail proves nothing.
    for break_it in (lambda p: p.pop("description"), lambda p: p["fieldConfig"]["defaults"].update(unit=""),
                     lambda p: p["targets"][0].update(expr="sum(outbox_leader)"), lambda p: p.update(id=1),
                     lambda p: p["targets"][0].update(expr='max(outbox_leader{job=~"$job"}) or vector(100)')):
        broken = json.loads(DASHBOARDS[0].read_text())
        break_it(next(panel for panel in broken["panels"] if panel["type"] != "row"))
        if not problems("broken", broken)[0]:
            found.append("a broken dashboard passes")
    if found:
        sys.exit("\n".join(found))
    print(f"{len(DASHBOARDS)} dashboards, {len(queries)} queries")


if __name__ == "__main__":
    main()
