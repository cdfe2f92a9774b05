#!/usr/bin/env python3
"""Asks every query of the three dashboards of a live Prometheus, after a drill, and draws what it answers, panel by panel.

    live.py http://127.0.0.1:9090 30 preview.svg        durations of the rules were divided by 30

Says in Markdown what it found; exit code 1 when a panel has shown nothing at any time, or something reads 100 % while nothing is
delivered. The picture is a preview of the panels' data. It is not Grafana, whose rendering is not tested here.
"""
import html
import json
import math
import sys
import time
import urllib.parse
import urllib.request
from pathlib import Path

DASHBOARDS = [Path(__file__).resolve().parent.parent / "grafana/dashboards" / f"{name}.json" for name in ("executive", "on-call", "debug")]
# Seconds that are looked back at most, and points of a line.
BACK, POINTS = 7200, 110
# Panels in percent that are the worse the more they show.
BAD_WHEN_FULL = {"Slow messages, 1 day", "Possible duplicates", "At-most-once loss, 1 hour", "Queue fill"}
# Panels that show something only where the configuration asks for it, each with the reason.
MAY_BE_EMPTY = {}
COLOURS = ["#2f6fb0", "#c2571a", "#3b8a4a", "#8a4fa0", "#9a7d0a"]
# Cells of Grafana's grid, in pixels.
CELL_W, CELL_H, GAP = 44, 26, 4


class Prometheus:
    def __init__(self, url):
        self.url = url

    def get(self, path, **parameters):
        with urllib.request.urlopen(f"{self.url}{path}?{urllib.parse.urlencode(parameters)}", timeout=60) as answer:
            return json.load(answer)["data"]

    def over(self, query, start, end, step):
        """Series with their points; what is no number is no point."""
        found = []
        for one in self.get("/api/v1/query_range", query=query, start=start, end=end, step=step)["result"]:
            points = [(at, float(value)) for at, value in one["values"] if math.isfinite(float(value))]
            if points:
                found.append((one["metric"], points))
        return found


def concrete(query, factor):
    """As Grafana would ask it. The five minutes of lag, above which success is not shown, are a duration of the rules."""
    query = query.replace("$__rate_interval", "15s").replace("$job", ".+")
    return query.replace("> 300)", f"> 300 / {factor})")


def name_of(legend, labels):
    for label, value in labels.items():
        legend = legend.replace("{{" + label + "}}", value)
    # Topics of a drill have a prefix of their own.
    return " ".join(word.rsplit(".", 1)[-1] for word in legend.replace("__auto", "").split())


UNITS = {"percentunit": (100, " %"), "s": (1, " s"), "cps": (1, " /s"), "bytes": (1e-6, " MB")}


def figure(value, unit):
    factor, suffix = UNITS.get(unit, (1, ""))
    return f"{value * factor:.4g}{suffix}"


def text(x, y, words, size=11, colour="#444", weight="normal", anchor="start"):
    return (f'<text x="{x:.0f}" y="{y:.0f}" font-size="{size}" fill="{colour}" font-weight="{weight}" text-anchor="{anchor}">'
            f"{html.escape(words)}</text>")


def draw(panel, answers, top, start, end):
    """One panel: its title, and a figure, lines or rows."""
    place = panel["gridPos"]
    x, y = place["x"] * CELL_W + GAP, top + place["y"] * CELL_H + GAP
    w, h = place["w"] * CELL_W - GAP, place["h"] * CELL_H - GAP
    unit = panel["fieldConfig"]["defaults"]["unit"]
    out = [f'<rect x="{x}" y="{y}" width="{w}" height="{h}" rx="3" fill="#fff" stroke="#d4d4d8"/>']
    title = panel["title"] if len(panel["title"]) * 6 < w else panel["title"][: w // 6 - 1] + "…"
    out.append(text(x + 6, y + 15, title, weight="bold"))
    if not answers:
        out.append(text(x + w / 2, y + h / 2 + 8, "no data", 13, "#999", anchor="middle"))
    elif panel["type"] == "stat":
        last = answers[0][1][-1]
        words = figure(last[1], unit) if end - last[0] < 30 else f"last {figure(last[1], unit)}"
        out.append(text(x + w / 2, y + h / 2 + 16, words, 20, "#222", anchor="middle"))
    elif panel["type"] == "table":
        for at, (name, points) in enumerate(answers[: h // 16 - 1]):
            out.append(text(x + 8, y + 34 + 16 * at, f"{name}   {figure(points[-1][1], unit)}"))
    else:
        shown = sorted(answers, key=lambda one: -max(value for _, value in one[1]))[: len(COLOURS)]
        high = max(value for _, points in shown for _, value in points) or 1
        low = min(0, *(value for _, points in shown for _, value in points))
        left, bottom, width, height = x + 8, y + h - 20, w - 16, h - 48
        out.append(text(x + w - 8, y + 15, figure(high, unit), 10, "#888", anchor="end"))
        out.append(f'<path d="M{left} {bottom}h{width}" stroke="#ddd"/>')
        for at, (name, points) in enumerate(shown):
            path, before = [], None
            for moment, value in points:
                px = left + (moment - start) / (end - start) * width
                py = bottom - (value - low) / ((high - low) or 1) * height
                # A gap stays one.
                joined = before is not None and moment - before < 3 * (end - start) / POINTS
                path.append(f"{'L' if joined else 'M'}{px:.0f} {py:.0f}" + ("" if joined else "h1"))
                before = moment
            out.append(f'<path d="{"".join(path)}" fill="none" stroke="{COLOURS[at]}" stroke-width="1.3"/>')
        room, at_x = w - 12, x + 8
        for at, (name, _) in enumerate(shown):
            need = 7 + 5.6 * len(name)
            if name and need < room:
                out.append(text(at_x, y + h - 6, name, 10, COLOURS[at]))
                at_x, room = at_x + need, room - need
    return out


def main():
    url, factor, path = sys.argv[1], int(sys.argv[2]), sys.argv[3]
    prometheus = Prometheus(url)
    end = time.time()
    born = prometheus.over("count(up)", end - BACK, end, 10)
    if not born:
        sys.exit("Prometheus has recorded nothing")
    start = born[0][1][0][0]
    step = max(2, (end - start) / POINTS)
    empty, asked, parts, top = [], 0, [], 0
    for file in DASHBOARDS:
        dashboard = json.loads(file.read_text())
        parts.append(text(GAP + 2, top + 22, dashboard["title"], 16, "#111", "bold"))
        top += 30
        depth = 0
        for panel in dashboard["panels"]:
            place = panel["gridPos"]
            depth = max(depth, place["y"] + place["h"])
            if panel["type"] == "row":
                parts.append(text(GAP + 2, top + place["y"] * CELL_H + 18, panel["title"], 13, "#111"))
                continue
            answers = []
            for target in panel["targets"]:
                asked += 1
                found = prometheus.over(concrete(target["expr"], factor), start, end, step)
                # What was there for a few seconds only is no empty panel.
                found = found or prometheus.over(concrete(target["expr"], factor), start, end, 1)
                if not found and (file.stem, panel["title"]) not in MAY_BE_EMPTY:
                    empty.append(f"{file.stem}: {panel['title']}: `{target['expr']}`")
                for labels, points in found:
                    legend = target["legendFormat"]
                    if panel["type"] == "table":
                        legend = " ".join(f"{{{{{label}}}}}" for label in labels)
                    answers.append((name_of(legend, labels), points))
            parts += draw(panel, answers, top, start, end)
        top += depth * CELL_H + 20
    width = 24 * CELL_W + GAP
    note = ("A preview drawn from the data of a live Prometheus during make drill, whose clock runs "
            f"{factor} times as fast. It is not Grafana.")
    Path(path).write_text(
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {top + 24}" font-family="sans-serif">'
        f'<rect width="{width}" height="{top + 24}" fill="#f4f4f5"/>' + "\n".join(parts)
        + text(GAP + 2, top + 12, note, 11) + "</svg>\n")

    # What reads well while nothing is delivered. Once a fault is mended, lag and alerts are a few seconds behind what flows already.
    stands = 'max(ALERTS{alertname=~"OutboxCircuitOpen|OutboxNoLeader|OutboxStalled", alertstate="firing"})'
    stood = prometheus.over(stands, start, end, 1)
    full = [(f"{file.stem}: {panel['title']}", concrete(target["expr"], factor), 3)
            for file in DASHBOARDS for panel in json.loads(file.read_text())["panels"] for target in panel.get("targets", [])
            if panel["fieldConfig"]["defaults"].get("unit") == "percentunit" and panel["title"] not in BAD_WHEN_FULL]
    # The shares of five minutes are about what ended within them: empty when that is nothing.
    window = 300 / factor + 3
    full += [("success of five minutes", "1 - outbox:delivery_errors:ratio_rate5m", window),
             ("fast messages of five minutes", "1 - outbox:delivery_slow:ratio_rate5m", window)]
    for what, query, seconds in full:
        nothing = f'sum(rate(outbox_messages_total{{outcome="delivered"}}[{seconds:.0f}s])) == 0'
        wrong = prometheus.over(f"(max({query}) > 0.999) and on () (max(outbox:lag:seconds) > 600 / {factor}) and on () ({stands}) and on () ({nothing})",
                                start, end, 1)
        if wrong:
            empty.append(f"{what} shows {wrong[0][1][0][1]:.3f} while nothing is delivered")
    if not stood:
        empty.append("nothing stood still, so nothing shows what is read meanwhile")
    minutes = sum(len(points) for _, points in stood) / 60
    print(f"{asked} queries of {len(DASHBOARDS)} dashboards were asked of the same Prometheus, over the {(end - start) / 60:.0f} minutes of the drill.")
    if empty:
        print("\nNot as it should be:\n\n" + "\n".join(f"- {one}" for one in empty))
    else:
        print(f"Each has returned data. In the {minutes:.1f} minutes in which nothing was delivered, none read 100 %.")
    sys.exit(1 if empty else 0)


if __name__ == "__main__":
    main()
