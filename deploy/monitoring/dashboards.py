#!/usr/bin/env python3
"""The one source of the three Grafana dashboards: writes deploy/grafana/dashboards/*.json. `make rules` runs it, a test lints what it
writes. One dashboard answers one question, from the general to the special; every panel says what it shows and what to think of it.
"""
import json
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
OUT = HERE.parent / "grafana/dashboards"
SOURCE = {"type": "prometheus", "uid": "${datasource}"}
RUNBOOKS = "https://runbooks.example.org/outbox-relay"

# Panels are (title, what it shows, unit, [(legend, query)], options).


def stat(title, description, unit, query, thresholds=None, **options):
    return ("stat", title, description, unit, [("", query)], {"thresholds": thresholds, **options})


def graph(title, description, unit, *queries, **options):
    return ("timeseries", title, description, unit, list(queries), options)


def table(title, description, unit, query, **options):
    return ("table", title, description, unit, [("", query)], options)


BAD_ABOVE_0 = [("green", None), ("red", 0.5)]
GOOD_ABOVE_0 = [("red", None), ("green", 0.5)]
# Without the messages of at-most-once topics, which have levels of their own.
AT_LEAST_ONCE = 'and on (job, topic) outbox:topic_info:one{job=~"$job", delivery="at_least_once"}'
# What is full while all is well is not shown while everything stands still.
UNLESS_STALLED = ' unless on (job) (max by (job) (outbox:lag:seconds{job=~"$job"}) > 300)'

EXECUTIVE = [
    ("Is what we promise kept?", [
        stat("Delivered of what ended, 28 days",
             "Share of messages that reached an end and were delivered, at-least-once topics. It says nothing about messages that still wait, "
             "so it is empty while the oldest has waited for more than five minutes: nothing reads 100 % while everything stands still.",
             "percentunit",
             'sum(increase(outbox_messages_total{job=~"$job", outcome="delivered"}[28d]) '
             + AT_LEAST_ONCE + ') / '
             '(sum(increase(outbox_messages_total{job=~"$job", outcome!="discarded"}[28d]) '
             + AT_LEAST_ONCE + ') > 0) '
             'unless on () (max(outbox:lag:seconds{job=~"$job"}) > 300)',
             [("red", None), ("orange", 0.999), ("green", 0.9995)], decimals=3),
        stat("Longest wait now", "How long the oldest message that is not delivered has been waiting. The objective is five minutes.", "s",
             'max(outbox:lag:seconds{job=~"$job"})', [("green", None), ("orange", 60), ("red", 300)]),
        stat("Lost messages", "Rows that nobody accounts for, and messages that reconciliation misses in Kafka. Must be 0.", "short",
             'sum(outbox:loss:messages{job=~"$job"})', BAD_ABOVE_0),
        stat("Last comparison with Kafka", "Age of the last reconciliation. Older than two days, loss would go unnoticed.", "s",
             'time() - max(outbox_reconcile_last_success_timestamp_seconds{job=~"$job"})',
             [("green", None), ("orange", 90000), ("red", 172800)]),
        stat("Dead letters open", "Messages that were given up and wait for a decision.", "short",
             'sum(max by (job, topic) (outbox_dead_letters{job=~"$job"}))', [("green", None), ("orange", 1)]),
    ]),
    ("How much room is left?", [
        graph("Error budget left, 28 days", "100 %: no message of the topic failed. 0: as many as the objective allows. Below: more. Empty while a message has waited for more than "
              "five minutes.", "percentunit",
              ("{{topic}} ({{tier}}, {{owner}})", 'outbox:delivery_errors:budget_left28d{job=~"$job"}' + UNLESS_STALLED), width=12),
        graph("Latency budget left, 28 days", "The same of messages that took longer than five seconds from insert to Kafka.", "percentunit",
              ("{{topic}} ({{tier}}, {{owner}})", 'outbox:delivery_slow:budget_left28d{job=~"$job"}' + UNLESS_STALLED), width=12),
        graph("Rate at which error budgets are used, 1 day", "1 uses exactly the budget of a month in a month. Above 3 for a day is a ticket.", "none",
              ("{{topic}} ({{tier}}, {{owner}})", 'outbox:delivery_errors:burn_rate1d{job=~"$job"}'), width=12),
        graph("Produced against delivered", "Messages a second that services wrote and that Kafka confirmed. A gap between the lines is a backlog that grows.",
              "cps", ("produced", 'sum(outbox:produced:rate5m{job=~"$job"})'), ("delivered", 'sum(outbox:delivered:rate5m{job=~"$job"})'), width=12),
        graph("Slow messages, 1 day", "Share that took longer than five seconds. The budget is 5 %; of critical topics 2, of those of a low tier 6.", "percentunit",
              ("{{topic}}", 'outbox:delivery_slow:ratio_rate1d{job=~"$job"}'), width=8),
        graph("Possible duplicates", "Upper bound of what consumers may have seen twice, of the last hour. They recognise copies by the event id.", "percentunit",
              ("{{job}}", 'outbox:possible_duplicates:ratio_rate1h{job=~"$job"}'), width=8),
        graph("Cost of a million messages", "CPU seconds of the relays; money by the price in rules.py. Postgres and Kafka are not in it.", "s",
              ("CPU seconds", 'outbox:cost:cpu_seconds_per_million{job=~"$job"}'), width=8),
        stat("Messages in 24 hours", "Messages that Kafka confirmed in the last day.", "short",
             'sum(increase(outbox_messages_total{job=~"$job", outcome="delivered"}[1d]))'),
        stat("At-most-once loss, 1 hour", "Share of messages of at-most-once topics that were lost. The objective is 0.5 % at most.", "percentunit",
             'max(outbox:at_most_once_loss:ratio_rate1h{job=~"$job"})', [("green", None), ("red", 0.005)]),
        stat("At-most-once copies, 1 day", "Messages of at-most-once topics that were sent again. Must be 0.", "short",
             'sum(outbox:at_most_once_copies:increase1d{job=~"$job"})', BAD_ABOVE_0),
    ]),
]

ON_CALL = [
    ("What stands still?", [
        stat("Leader", "Relays that hold the lease. 1 is right; 0 means that nothing is published.", "short",
             'sum(outbox_leader{job=~"$job"})', GOOD_ABOVE_0),
        stat("Longest wait", "How long the oldest message has been waiting, over all topics.", "s",
             'max(outbox:lag:seconds{job=~"$job"})', [("green", None), ("orange", 60), ("red", 300)]),
        stat("Stalled", "1 when rows wait to be read and none has reached an end for five minutes.", "short",
             '(max(outbox_backlog_messages{job=~"$job", state="ready"}) > bool 0) * '
             '(sum(rate(outbox_messages_total{job=~"$job"}[5m]) '
             + AT_LEAST_ONCE + ') == bool 0)', BAD_ABOVE_0),
        stat("Circuit open", "1 while Kafka confirms nothing. Rows wait in Postgres, none is charged an attempt.", "short",
             'max(outbox_circuit_open{job=~"$job"})', BAD_ABOVE_0),
        stat("Reading stopped", "1 while so many rows are deferred that nothing more is read, of any topic.", "short",
             'max(outbox_reading_stopped{job=~"$job", cause="deferred_limit"})', BAD_ABOVE_0),
        stat("Lost", "Rows that nobody accounts for, and messages missing in Kafka.", "short",
             'sum(outbox:loss:messages{job=~"$job"})', BAD_ABOVE_0),
        graph("Lag by topic", "How long the oldest message of each topic has been waiting. All topics together: the relay. One: that topic.", "s",
              ("{{topic}}", 'outbox:lag:seconds{job=~"$job"}'), width=12),
        graph("Backlog by state", "ready: not read yet. retrying and blocked: put off. laned: of topics that are read on their own. scheduled: not due.", "short",
              ("{{state}}", 'max by (state) (outbox_backlog_messages{job=~"$job"})'), width=12),
        graph("Produced against delivered", "Messages a second. When delivered is below produced, the backlog grows.", "cps",
              ("produced", 'sum(outbox:produced:rate5m{job=~"$job"})'), ("delivered", 'sum(outbox:delivered:rate5m{job=~"$job"})'), width=12),
        table("Topics that are read on their own", "A lane and its cause: missing, forbidden, stalled, paused, paced and so on.", "short",
              'max by (topic, cause) (outbox_topic_lane{job=~"$job"})', width=12),
    ]),
    ("What fails?", [
        graph("Errors from Kafka by class", "unreachable and throttled are Kafka's, topic and record are ours to repair, authentication needs a human now.", "cps",
              ("{{class}}", 'sum by (class) (rate(outbox_kafka_errors_total{job=~"$job"}[$__rate_interval]))'), width=8),
        graph("Database errors by operation", "Each failed call to Postgres, by what was asked.", "cps",
              ("{{operation}}", 'sum by (operation) (rate(outbox_database_errors_total{job=~"$job"}[$__rate_interval]))'), width=8),
        graph("Attempts without an ack", "rejected: the row's or topic's fault. unknown: nobody knows. throttled: a quota.", "cps",
              ("{{result}}", 'sum by (result) (rate(outbox_attempts_total{job=~"$job", result!="ack"}[$__rate_interval]))'), width=8),
        stat("Tries per message", "The objective is 1.2 at most.", "none",
             'max(outbox:tries_per_message:ratio_rate5m{job=~"$job"})', [("green", None), ("orange", 1.2)], decimals=2),
        stat("Blocked keys", "Keys whose later messages wait for one that fails.", "short", 'max(outbox_blocked_keys{job=~"$job"})',
             [("green", None), ("orange", 1)]),
        stat("Longest blocked key", "For how long. An hour is a ticket.", "s",
             'time() - (max(outbox_oldest_blocked_key_timestamp_seconds{job=~"$job"}) > 0)', [("green", None), ("orange", 600), ("red", 3600)]),
        stat("Oldest dead letter", "How long it has been waiting for a decision. A day is a ticket.", "s",
             'time() - (max(outbox_oldest_dead_letter_timestamp_seconds{job=~"$job"}) > 0)', [("green", None), ("orange", 3600), ("red", 86400)]),
        graph("Dead letters by topic", "Open ones.", "short", ("{{topic}}", 'max by (topic) (outbox_dead_letters{job=~"$job"}) > 0'), width=12),
        graph("Budget use, 1 hour", "14.4 for an hour and five minutes is a page.", "none",
              ("{{topic}} errors", 'outbox:delivery_errors:burn_rate1h{job=~"$job"}'), width=12),
    ]),
    ("Who leads, and can it work?", [
        graph("Leader", "Which relay holds the lease. Steps are takeovers.", "short", ("{{instance}}", 'outbox_leader{job=~"$job"}'), width=8),
        graph("Dependencies", "1 while the last call succeeded.", "short",
              ("{{instance}} {{dependency}}", 'outbox_dependency_up{job=~"$job"}'), width=8),
        graph("Brokers", "up, down (wanted and not there), idle (nothing goes there).", "short",
              ("{{state}}", 'max by (state) (outbox_kafka_brokers{job=~"$job"})'), width=8),
    ]),
]

DEBUG = [
    ("Stages", [
        graph("Time to deliver", "From insert to Kafka's confirm, by the database's clock: half and 95 of 100 messages.", "s",
              ("p95 {{topic}}", 'outbox:delivery_seconds:p95_5m{job=~"$job"}'),
              ("p50", 'histogram_quantile(0.5, sum by (le) (rate(outbox_delivery_seconds_bucket{job=~"$job"}[$__rate_interval])))'), width=8),
        graph("Time from hand-over to the last report of a batch", "Kafka's part.", "s",
              ("p95", 'histogram_quantile(0.95, sum by (le) (rate(outbox_publish_seconds_bucket{job=~"$job"}[$__rate_interval])))'), width=8),
        graph("Database operations, p95", "Postgres' part, by what is asked.", "s",
              ("{{operation}}", 'histogram_quantile(0.95, sum by (operation, le) (rate(outbox_database_seconds_bucket{job=~"$job"}[$__rate_interval])))'), width=8),
        graph("Rows of a batch", "Mean. Near relay.page_rows the relay reads as fast as it can.", "short",
              ("rows", 'sum(rate(outbox_batch_messages_sum{job=~"$job"}[$__rate_interval])) / '
                       '(sum(rate(outbox_batch_messages_count{job=~"$job"}[$__rate_interval])) > 0)'), width=8),
        graph("In flight", "Rows handed to Kafka and not settled: what a crash would repeat.", "short",
              ("rows", 'max(outbox_in_flight_messages{job=~"$job"})'), width=8),
        graph("Time from first rejection to confirm, p95", "Of rows that were rejected at least once.", "s",
              ("{{topic}}", 'histogram_quantile(0.95, sum by (topic, le) (rate(outbox_retry_seconds_bucket{job=~"$job"}[$__rate_interval])))'), width=8),
    ]),
    ("librdkafka", [
        graph("Round trip, p95", "Of the slowest broker, over the last second.", "s",
              ("{{instance}}", 'outbox_kafka_round_trip_p95_seconds{job=~"$job"}'), width=8),
        graph("Queue fill", "Share of librdkafka's queue that is used. Full means that Kafka is the slow part.", "percentunit",
              ("{{instance}}", 'outbox_kafka_queue_ratio{job=~"$job"}'), width=8),
        graph("Retries and timeouts", "Requests that were sent again, and that were not answered in time.", "cps",
              ("retries", 'sum(rate(outbox_kafka_retries_total{job=~"$job"}[$__rate_interval]))'),
              ("timeouts", 'sum(rate(outbox_kafka_request_timeouts_total{job=~"$job"}[$__rate_interval]))'), width=8),
    ]),
    ("Postgres", [
        graph("Tables", "With their indexes. message falls when a slot is emptied.", "bytes",
              ("{{table}}", 'max by (table) (outbox_table_bytes{job=~"$job"})'), width=8),
        graph("Oldest transaction", "Open for so long. It holds slots and vacuum back, not the relay.", "s",
              ("age", 'time() - (max(outbox_oldest_transaction_timestamp_seconds{job=~"$job"}) > 0)'), width=8),
        graph("Oldest row", "Above retention and ring (36 h by default) a slot is not emptied.", "s",
              ("age", 'time() - (max(outbox_oldest_slot_timestamp_seconds{job=~"$job"}) > 0)'), width=8),
    ]),
    ("Lease and process", [
        graph("Epoch", "Each step is a takeover.", "short", ("epoch", 'max(outbox_lease_epoch{job=~"$job"})'), width=6),
        graph("Trust left", "For how long the leader trusts its lease without another beat.", "s",
              ("{{instance}}", '(outbox_lease_expiry_timestamp_seconds{job=~"$job"} > 0) - time()'), width=6),
        graph("Redeliveries by cause", "Rows that were sent again.", "cps",
              ("{{cause}}", 'sum by (cause) (rate(outbox_redeliveries_total{job=~"$job"}[$__rate_interval]))'), width=6),
        graph("Producers replaced", "Each one ended at a record that was rejected.", "cps",
              ("{{instance}}", 'rate(outbox_producer_replaced_total{job=~"$job"}[$__rate_interval])'), width=6),
        graph("CPU", "Cores in use, of the process and of its async workers.", "short",
              ("{{instance}} process", 'rate(process_cpu_seconds_total{job=~"$job"}[$__rate_interval])'),
              ("{{instance}} workers", 'rate(outbox_runtime_busy_seconds_total{job=~"$job"}[$__rate_interval])'), width=6),
        graph("Memory", "Resident.", "bytes", ("{{instance}}", 'process_resident_memory_bytes{job=~"$job"}'), width=6),
        graph("Delay of timers, p99", "How long ready work waits for a worker.", "s",
              ("p99", 'histogram_quantile(0.99, sum by (le) (rate(outbox_runtime_delay_seconds_bucket{job=~"$job"}[$__rate_interval])))'), width=6),
        graph("Tasks", "Alive, and waiting in the global queue.", "short",
              ("{{instance}} alive", 'outbox_runtime_tasks{job=~"$job"}'), ("{{instance}} queued", 'outbox_runtime_queued_tasks{job=~"$job"}'), width=6),
    ]),
]


def variable(name, kind, **more):
    return {"name": name, "type": kind, "label": name, "hide": 0, "refresh": 2, **more}


def dashboard(uid, title, description, sections):
    panels, y, number = [], 0, 0
    for heading, content in sections:
        number += 1
        panels.append({"id": number, "type": "row", "title": heading, "collapsed": False, "panels": [],
                       "gridPos": {"x": 0, "y": y, "w": 24, "h": 1}})
        y += 1
        x = height_of_line = 0
        for kind, name, text, unit, queries, options in content:
            number += 1
            width, height = options.get("width", 4), 4 if kind == "stat" else 8
            if x + width > 24:
                x, y, height_of_line = 0, y + height_of_line, 0
            steps = [{"color": color, "value": value} for color, value in options.get("thresholds") or [("green", None)]]
            defaults = {"unit": unit, "thresholds": {"mode": "absolute", "steps": steps}, "noValue": "no data"}
            if "decimals" in options:
                defaults["decimals"] = options["decimals"]
            panels.append({
                "id": number, "type": kind, "title": name, "description": text, "datasource": SOURCE,
                "gridPos": {"x": x, "y": y, "w": width, "h": height},
                "fieldConfig": {"defaults": defaults, "overrides": []},
                "targets": [
                    {"refId": chr(ord("A") + at), "datasource": SOURCE, "expr": query, "legendFormat": legend or "__auto",
                     **({"instant": True, "format": "table"} if kind == "table" else {})}
                    for at, (legend, query) in enumerate(queries)
                ],
            })
            x, height_of_line = x + width, max(height_of_line, height)
        y += height_of_line
    return {
        "uid": uid, "title": title, "description": description, "tags": ["outbox-relay"], "schemaVersion": 39, "version": 1,
        "editable": False, "graphTooltip": 1, "refresh": "30s", "time": {"from": "now-6h", "to": "now"}, "timezone": "browser",
        "annotations": {"list": []},
        "links": [
            {"type": "link", "title": "Runbooks", "url": RUNBOOKS, "targetBlank": True},
            {"type": "dashboards", "title": "Outbox relay", "tags": ["outbox-relay"], "keepTime": True, "includeVars": True},
        ],
        "templating": {"list": [
            variable("datasource", "datasource", query="prometheus", current={}),
            variable("job", "query", datasource=SOURCE, query="label_values(outbox_leader, job)", includeAll=True, multi=True,
                     allValue=".+", current={"text": "All", "value": "$__all"}),
        ]},
        "panels": panels,
    }


def files():
    return {
        OUT / "executive.json": dashboard("outbox-executive", "Outbox relay: are promises kept?",
                                          "Objective, budget, duplicates, cost and loss, for people who are not on call.", EXECUTIVE),
        OUT / "on-call.json": dashboard("outbox-on-call", "Outbox relay: on call",
                                        "Is anything lost, what is stuck, and why. Alerts link here.", ON_CALL),
        OUT / "debug.json": dashboard("outbox-debug", "Outbox relay: inside", "Where time and memory go.", DEBUG),
    }


def main():
    """Writes the files; with --check only compares them."""
    for path, content in files().items():
        text = json.dumps(content, indent=1, ensure_ascii=False) + "\n"
        if sys.argv[1:] == ["--check"]:
            if not path.exists() or path.read_text() != text:
                sys.exit(f"{path.name} is not what dashboards.py says: run `make rules` and commit it")
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)


if __name__ == "__main__":
    main()
