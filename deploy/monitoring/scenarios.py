#!/usr/bin/env python3
"""What the rules have to say in made-up situations. Writes rules_test.yml (minutes), rules_days_test.yml (hours and days) and
rules_months_test.yml for `promtool test rules`; `make rules` runs them, and mutate.py shows that they notice every change of a rule.

Each scenario starts from a healthy outbox whose numbers stand just below the thresholds, changes some series, and gives the *whole*
list of firing alerts at some minutes: an alert too many fails as well as one too few. Expectations are written by hand, here.
"""
import sys
from pathlib import Path

import yaml

import rules

HERE = Path(__file__).resolve().parent
TOPICS = {
    "orders": ("checkout", "critical", "at_least_once"),
    "mail": ("mail", "standard", "at_least_once"),
    "clicks": ("web", "low", "at_least_once"),
    "pulse": ("web", "standard", "at_most_once"),
}
LEADER, STANDBY = "a:9464", "b:9464"


def healthy(minutes, step):
    """A leader, a standby, four topics with 600 messages a minute each."""
    n = minutes // step
    grow = lambda per_minute, start=0: f"{start}+{per_minute * step}x{n}"
    flat = lambda value: f"{value}x{n}"
    series = {}

    def put(name, values, instance=LEADER, **labels):
        labels = {"job": "shop/outbox-relay", "instance": instance, **labels}
        series[name + "{" + ",".join(f'{k}="{v}"' for k, v in labels.items()) + "}"] = values

    for instance in (LEADER, STANDBY):
        put("up", flat(1), instance)
        put("outbox_leader", flat(int(instance == LEADER)), instance)
        put("outbox_leader_transitions_total", flat(int(instance == LEADER)), instance)
        put("outbox_build_info", flat(1), instance, version="0.1.0")
        put("outbox_config_info", flat(1), instance, digest="x")
        put("outbox_dependency_up", flat(1), instance, dependency="postgres")
        put("outbox_dependency_up", flat(1), instance, dependency="kafka")
        put("outbox_certificate_expiry_timestamp_seconds", flat(0), instance)
        put("outbox_oldest_dead_letter_timestamp_seconds", flat(0), instance)
        put("outbox_oldest_blocked_key_timestamp_seconds", flat(0), instance)
        put("outbox_reconcile_missing_messages", flat(0), instance)
        put("outbox_reconcile_last_success_timestamp_seconds", grow(60), instance)
        put("outbox_backlog_messages", flat(100), instance, state="ready")
        put("outbox_maintenance", flat(0), instance)
        put("outbox_maintenance_end_timestamp_seconds", flat(0), instance)
        put("process_cpu_seconds_total", grow(6), instance)
        # While a new configuration is rolled out the longer retention counts.
        put("outbox_retention_published_seconds", flat(86400 if instance == LEADER else 43200), instance)
        put("outbox_log_lines_total", flat(3), instance, event="cannot_lead", level="warn")
        put("outbox_log_lines_total", grow(3), instance, event="topic_sick", level="warn")
        # Confirmed 290 s ago.
        put("outbox_heartbeat_confirmed_timestamp_seconds",
            f"0x4 10+60x{n}" if step == 1 else f"0 {step * 60 - 290}+{step * 60}x{n}", instance)
        for topic, (owner, tier, delivery) in TOPICS.items():
            put("outbox_topic_info", flat(1), instance, topic=topic, owner=owner, tier=tier, delivery=delivery)
            # 100 s behind.
            late = "1 1 40" if step == 1 else "1"
            start = 80 if step == 1 else step * 60 - 100
            put("outbox_oldest_pending_timestamp_seconds", f"{late} {start}+{60 * step}x{n}", instance, topic=topic)
    for topic in TOPICS:
        put("outbox_read_messages_total", grow(600), topic=topic)
        put("outbox_messages_total", grow(600), topic=topic, outcome="delivered")
        for outcome in ("dead_lettered", "dropped", "expired", "discarded"):
            put("outbox_messages_total", flat(0), topic=topic, outcome=outcome)
        put("outbox_dead_lettered_total", flat(0), topic=topic, reason="refused")
        put("outbox_attempts_total", grow(600), topic=topic, result="ack")
        put("outbox_attempts_total", grow(72), topic=topic, result="rejected")
        put("outbox_redeliveries_total", flat(0), topic=topic, cause="takeover")
        put("outbox_redeliveries_total", grow(60), topic=topic, cause="replay")
        put("outbox_delivery_seconds_bucket", grow(591 if topic == "orders" else 582), topic=topic, le="5")
        put("outbox_delivery_seconds_bucket", grow(600), topic=topic, le="+Inf")
        put("outbox_delivery_seconds_count", grow(600), topic=topic)
    put("outbox_redeliveries_total", grow(1), topic="orders", cause="crash")
    put("outbox_circuit_open", flat(0))
    # 44.8 tries a second are just below what counts as the whole of it.
    put("outbox_rate_limit", flat(50))
    put("outbox_reading_stopped", flat(0), cause="deferred_limit")
    put("outbox_reading_stopped", flat(1), cause="window_full")
    put("outbox_unaccounted_messages", flat(0))
    put("outbox_loss_incidents_total", flat(0))
    for error in ("authentication", "authorization"):
        put("outbox_kafka_errors_total", flat(0), **{"class": error})
    put("outbox_kafka_errors_total", grow(10), **{"class": "unreachable"})
    # A tenth of what would fill the volume; over days it stands.
    put("outbox_table_bytes", grow(100_000_000 if step == 1 else 0, 10_000_000_000), table="message")
    put("outbox_table_bytes", flat(5_000_000_000), table="ledger")
    put("outbox_oldest_slot_timestamp_seconds", flat(0))
    put("outbox_oldest_transaction_timestamp_seconds", flat(0))
    return series


def matches(series, pattern):
    """`name label=value …` names every series of that name with those labels."""
    name, *labels = pattern.split()
    return series.split("{")[0] == name and all(
        '{}="{}"'.format(*label.split("=", 1)) in series for label in labels)


def alert_labels(spelled):
    """`Name severity label=value …`, as the series that Prometheus keeps of a firing alert."""
    name, severity, *labels = spelled.split()
    pairs = {"alertname": name, "alertstate": "firing", "severity": severity, "owner": rules.OWNER}
    if not name.endswith("@nowhere"):
        pairs["job"] = "shop/outbox-relay"
    pairs["alertname"] = name.removesuffix("@nowhere")
    for label in labels:
        key, value = label.split("=", 1)
        pairs[key] = value
        if key == "topic":
            pairs["owner"], pairs["tier"], _ = TOPICS[value]
    return "ALERTS{" + ",".join(f'{k}="{v}"' for k, v in sorted(pairs.items())) + "}"


# What planned work holds back. Every scenario in which one of these fires is played once more with planned work announced.
HELD = {
    "OutboxNoLeader", "OutboxStalled", "OutboxCircuitOpen", "OutboxReadingStopped", "OutboxLagHigh", "OutboxTargetDown",
    "OutboxDependencyDown", "OutboxCannotLead", "OutboxAuthenticationFailing", "OutboxLeaderFlapping", "OutboxTopicSick", "OutboxDeliveryErrorBudgetBurn",
    "OutboxLatencyBudgetBurn", "OutboxHeartbeatStale",
}
# Some time after 2001, and no scenario is that long.
ANNOUNCED = {"outbox_maintenance": "1x5000", "outbox_maintenance_end_timestamp_seconds": "1000000000x5000"}


class Scenarios:
    def __init__(self, step):
        self.step, self.tests = step, []

    def add(self, name, minutes, changes, expected, values=(), drop=()):
        """`changes`: pattern -> values. `expected`: minute -> alerts. `values`: (minute, expression, {series: value})."""
        self.one(name, minutes, changes, expected, values, drop)
        fires = {one.split()[0] for alerts in expected.values() for one in alerts}
        if fires & HELD and not drop and not set(ANNOUNCED) & set(changes):
            left = {minute: [one for one in alerts if one.split()[0] not in HELD] for minute, alerts in expected.items()}
            self.one(f"planned work: {name}", minutes, {**changes, **ANNOUNCED}, left)

    def one(self, name, minutes, changes, expected, values=(), drop=()):
        series = healthy(minutes, self.step)
        for pattern in drop:
            gone = [one for one in series if matches(one, pattern)]
            assert gone, f"{name}: nothing is {pattern}"
            for one in gone:
                del series[one]
        for pattern, spelled in changes.items():
            hit = [one for one in series if matches(one, pattern)]
            if not hit:
                label, *labels = pattern.split()
                pairs = {"job": "shop/outbox-relay", "instance": LEADER, **dict(l.split("=", 1) for l in labels)}
                hit = [label + "{" + ",".join(f'{k}="{v}"' for k, v in pairs.items()) + "}"]
            for one in hit:
                series[one] = spelled
        self.tests.append({
            "name": name,
            "interval": f"{self.step}m",
            # Not for promtool: which metrics the scenario is about.
            "changed": sorted({pattern.split()[0] for pattern in [*changes, *drop]}),
            "input_series": [{"series": key, "values": value} for key, value in series.items()],
            "promql_expr_test": [
                {
                    "expr": 'ALERTS{alertstate="firing"}',
                    "eval_time": f"{minute}m",
                    "exp_samples": [{"labels": alert_labels(one), "value": 1} for one in alerts],
                }
                for minute, alerts in expected.items()
            ] + [
                {
                    "expr": expression,
                    "eval_time": f"{minute}m",
                    "exp_samples": [{"labels": key, "value": value} for key, value in samples.items()],
                }
                for minute, expression, samples in values
            ],
        })

    def document(self):
        # Without an order promtool takes the groups as they come, now alerts before recordings and now behind them.
        return {"rule_files": ["rules.yml"], "evaluation_interval": f"{self.step}m",
                "group_eval_order": [group["name"] for group in rules.groups()], "tests": self.tests}


def steps(*parts):
    """`(per_minute, minutes), …` of a counter that is sampled every minute."""
    value, values = 0, ["0"]
    for rate, minutes in parts:
        values.append(f"{value + rate}+{rate}x{minutes - 1}" if minutes > 1 else f"{value + rate}")
        value += rate * minutes
    return " ".join(values)


JOB = 'job="shop/outbox-relay"'
OF_MAIL = f'{{{JOB},topic="mail",owner="mail",tier="standard"}}'


def of_mail(what, window):
    """The rule for a share of one topic's messages, in thousandths; its label set is OF_MAIL."""
    return f'round(outbox:delivery_{what}:ratio_rate{window}{{topic="mail"}} * 1000)'


def minutes():
    s = Scenarios(1)
    s.add("a healthy outbox, just below every threshold", 100, {}, {30: [], 100: []}, values=[
        (90, 'outbox:lag:seconds{topic="orders"}',
         {f'outbox:lag:seconds{{{JOB},topic="orders",owner="checkout",tier="critical"}}': 100}),
        # Rounded: in which order Prometheus adds series is not fixed.
        (90, "round(outbox:tries_per_message:ratio_rate5m * 100)", {f"{{{JOB}}}": 112}),
        (90, "round(outbox:retries:rate1m * 10)", {f"{{{JOB}}}": 48}),
        (90, "round(outbox:possible_duplicates:ratio_rate1h * 1e6)", {f"{{{JOB}}}": 556}),
        (90, "outbox:produced:rate5m", {f"outbox:produced:rate5m{{{JOB}}}": 40}),
        (90, "outbox:delivered:rate5m", {f"outbox:delivered:rate5m{{{JOB}}}": 40}),
        (90, "outbox:loss:messages", {f"outbox:loss:messages{{{JOB}}}": 0}),
        (90, "round(outbox:cost:cpu_seconds_per_million)", {f"{{{JOB}}}": 5000}),
        (90, "round(outbox:cost:money_per_million * 1000)", {f"{{{JOB}}}": 50}),
        (90, "round(outbox:price:per_cpu_second * 1e6)", {"{}": 10}),
        (90, 'round(outbox:delivery_slow:ratio_rate5m{topic="orders"} * 1000)',
         {f'{{{JOB},topic="orders",owner="checkout",tier="critical"}}': 15}),
        (90, 'outbox:dead_letters:ratio_rate1h{topic="orders"}',
         {f'outbox:dead_letters:ratio_rate1h{{{JOB},topic="orders"}}': 0}),
        (90, 'round(outbox:delivery_seconds:p95_5m{topic="orders"} * 1000)', {f'{{{JOB},topic="orders"}}': 4822}),
        (90, "outbox:error_budget:ratio", {
            'outbox:error_budget:ratio{tier="critical"}': 0.0005,
            'outbox:error_budget:ratio{tier="standard"}': 0.001,
            'outbox:error_budget:ratio{tier="low"}': 0.01}),
        (90, "outbox:slow_budget:ratio", {
            'outbox:slow_budget:ratio{tier="critical"}': 0.02,
            'outbox:slow_budget:ratio{tier="standard"}': 0.05,
            'outbox:slow_budget:ratio{tier="low"}': 0.06}),
        # What an operator asked for is no copy that was not wanted.
        (90, "outbox:at_most_once_copies:increase1d",
         {f'outbox:at_most_once_copies:increase1d{{{JOB},topic="pulse"}}': 0}),
    ])
    s.add("every relay is gone", 10, {}, {0: [], 3: ["OutboxNoLeader@nowhere page"]},
          drop=sorted({one.split("{")[0] for one in healthy(1, 1)}))
    stopped = sorted({one.split("{")[0] for one in healthy(1, 1)} - {"up"})
    s.add("every relay is stopped for planned work that ends after twenty minutes", 30, {
        **{metric: "1 1 1 stale" for metric in stopped},
        "outbox_maintenance_end_timestamp_seconds": "1200x3 stale",
    }, {6: [], 19: [], 23: ["OutboxNoLeader page"]}, drop=["up"])
    s.add("every relay of one of two outboxes is gone, and is not forgotten for a day", 30, {
        **{metric: "1 1 1 stale" for metric in stopped},
        "outbox_maintenance_end_timestamp_seconds": "0x3 stale",
        "outbox_leader job=shop/other-outbox-relay instance=c:9464": "1x30",
    }, {3: [], 6: ["OutboxNoLeader page"], 29: ["OutboxNoLeader page"]}, drop=["up"])
    s.add("planned work goes on while postgres cannot be asked, and is over when its time is", 40, {
        "outbox_maintenance": "0 0 1x40",
        "outbox_maintenance_end_timestamp_seconds": "0 0 1200x40",
        "outbox_circuit_open": "0 0 1x40",
    }, {8: [], 18: [], 27: ["OutboxCircuitOpen page"]},
        values=[(1, "outbox:maintenance:holds", {f"outbox:maintenance:holds{{{JOB}}}": 0}),
                (18, "outbox:maintenance:holds", {f"outbox:maintenance:holds{{{JOB}}}": 1})])
    s.add("planned work that is ended early: alerts are on again", 20, {
        "outbox_maintenance": "1x6 0x14",
        "outbox_maintenance_end_timestamp_seconds": "6000x6 0x14",
        "outbox_circuit_open": "0 0 1x20",
    }, {6: [], 14: ["OutboxCircuitOpen page"]})
    s.add("planned work of which a topic stays paused, and one that is in time", 60, {
        "outbox_maintenance": "1x9 0x50",
        "outbox_maintenance_end_timestamp_seconds": "600x30 0x30",
    }, {22: [], 27: ["OutboxMaintenanceOverdue ticket"], 35: []})
    s.add("loss and a full volume are told also while planned work goes on", 100, {
        **ANNOUNCED,
        "outbox_unaccounted_messages": "1x100",
        "outbox_reconcile_missing_messages": "1x100",
        "outbox_table_bytes table=message": "10000000000+400000000x100",
    }, {30: ["OutboxUnaccountedMessages page", "OutboxReconcileFoundLoss page", "OutboxVolumeFull page"]})
    s.add("what waited for planned work is late for an hour more", 190, {
        "outbox_maintenance": "1x10 0x180",
        "outbox_maintenance_end_timestamp_seconds": "600x9 0x181",
        "outbox_delivery_seconds_bucket topic=mail le=5": steps((60, 190)),
    }, {60: ["OutboxLatencyBudgetBurnSlow ticket topic=mail"],
        80: ["OutboxLatencyBudgetBurn page topic=mail", "OutboxLatencyBudgetBurnSlow ticket topic=mail"]})
    s.add("what waited while its topic was paused is late for an hour more, and what waited for its pace is late at once", 190, {
        "outbox_topic_lane topic=mail cause=paused": "1x60 0x130",
        "outbox_topic_lane topic=orders cause=paced": "1x60 0x130",
        "outbox_delivery_seconds_bucket topic=mail le=5": steps((60, 190)),
        "outbox_delivery_seconds_bucket topic=orders le=5": steps((60, 190)),
    }, {110: ["OutboxLatencyBudgetBurnSlow ticket topic=mail", "OutboxLatencyBudgetBurnSlow ticket topic=orders",
              "OutboxLatencyBudgetBurn page topic=orders"],
        130: ["OutboxLatencyBudgetBurnSlow ticket topic=mail", "OutboxLatencyBudgetBurnSlow ticket topic=orders",
              "OutboxLatencyBudgetBurn page topic=mail", "OutboxLatencyBudgetBurn page topic=orders"]})
    s.add("what waited for an outage that has paged is late for an hour more", 160, {
        "outbox_circuit_open": "0x60 1x20 0x79",
        "outbox_delivery_seconds_bucket topic=mail le=5": steps((582, 60), (60, 100)),
    }, {75: ["OutboxCircuitOpen page", "OutboxLatencyBudgetBurnSlow ticket topic=mail"],
        135: ["OutboxLatencyBudgetBurnSlow ticket topic=mail"],
        150: ["OutboxLatencyBudgetBurn page topic=mail", "OutboxLatencyBudgetBurnSlow ticket topic=mail"]})
    s.add("a relay that is gone has known of planned work that those that are left say is over", 20, {
        "outbox_maintenance_end_timestamp_seconds instance=gone": "6000x3 stale",
        "outbox_leader": "1x4 0x16",
    }, {5: [], 10: ["OutboxNoLeader page"]})
    s.add("messages of a low tier that are late are a ticket", 130, {
        "outbox_delivery_seconds_bucket topic=clicks le=5": steps((60, 130)),
    }, {120: ["OutboxLatencyBudgetBurn ticket topic=clicks", "OutboxLatencyBudgetBurnSlow ticket topic=clicks"]})
    s.add("another program of the job costs nothing", 100, {
        "process_cpu_seconds_total instance=another": "0+600x100",
    }, {}, values=[(90, "round(outbox:cost:cpu_seconds_per_million)", {f"{{{JOB}}}": 5000})])
    s.add("two standbys and no leader", 10, {"outbox_leader": "1x4 0x6"}, {5: [], 7: ["OutboxNoLeader page"]})
    s.add("messages wait and nothing is delivered", 30, {
        "outbox_messages_total outcome=delivered": "6000x30",
        "outbox_attempts_total": "6000x30",
        "outbox_delivery_seconds_bucket": "6000x30",
        "outbox_delivery_seconds_count": "6000x30",
        "outbox_oldest_pending_timestamp_seconds": "600x30",
    }, {12: [], 14: [], 16: ["OutboxStalled page"], 28: ["OutboxStalled page"]},
        # The trap: a ratio of nothing is nothing, and never 100 %.
        values=[(28, "outbox:delivery_slow:ratio_rate5m", {}), (28, "outbox:delivery_errors:ratio_rate5m", {})])
    s.add("deliveries stop, and five minutes without any are a stall", 40, {
        "outbox_messages_total outcome=delivered": steps((600, 20), (0, 20)),
        "outbox_attempts_total result=ack": steps((600, 20), (0, 20)),
        "outbox_attempts_total result=rejected": steps((72, 20), (0, 20)),
        "outbox_oldest_pending_timestamp_seconds": "1080x40",
    }, {24: [], 26: [], 28: ["OutboxStalled page"], 31: ["OutboxStalled page"]})
    s.add("at-most-once messages that flow do not hide that the others stand still", 30, {
        **{f"outbox_messages_total topic={topic} outcome=delivered": "6000x30" for topic in ("orders", "mail", "clicks")},
        **{f"outbox_attempts_total topic={topic}": "6000x30" for topic in ("orders", "mail", "clicks")},
        "outbox_oldest_pending_timestamp_seconds": "600x30",
    }, {14: [], 16: ["OutboxStalled page"], 28: ["OutboxStalled page"]})
    s.add("rows that go out every third minute flow", 40, {
        "outbox_messages_total outcome=delivered": steps(*[(0, 2), (1800, 1)] * 13),
        "outbox_oldest_pending_timestamp_seconds topic=orders": "600x40",
    }, {23: ["OutboxLagHigh page topic=orders"]})
    s.add("nothing is delivered because nothing waits", 30, {
        "outbox_messages_total outcome=delivered": "6000x30",
        "outbox_attempts_total": "6000x30",
        "outbox_backlog_messages state=ready": "0x30",
        "outbox_oldest_pending_timestamp_seconds": "0x30",
    }, {28: []}, values=[(28, 'sum(outbox:lag:seconds)', {"{}": 0})])
    s.add("one topic's rows wait and nothing else comes: no stall of the relay", 30, {
        "outbox_messages_total outcome=delivered": "6000x30",
        "outbox_attempts_total": "6000x30",
        "outbox_backlog_messages state=ready": "0x30",
        "outbox_oldest_pending_timestamp_seconds topic=mail": "600x30",
    }, {28: []})
    s.add("waiting for less than two minutes is no stall", 30, {
        "outbox_messages_total outcome=delivered": "6000x30",
        "outbox_attempts_total": "6000x30",
    }, {28: []})
    stale = {"outbox_heartbeat_confirmed_timestamp_seconds": "0 0 600x40"}
    s.add("no heartbeat is confirmed any more", 40, stale, {14: [], 16: [], 19: ["OutboxHeartbeatStale page"]})
    s.add("the heartbeat is late because everything is, which is told already", 40, {
        **stale,
        "outbox_oldest_pending_timestamp_seconds topic=orders": "600x40",
        "outbox_oldest_pending_timestamp_seconds topic=mail": "600x40",
    }, {19: []})
    s.add("everything was late a moment ago, so the heartbeat may be", 40, {
        **stale,
        "outbox_oldest_pending_timestamp_seconds topic=orders": "600x15 0x25",
        "outbox_oldest_pending_timestamp_seconds topic=mail": "600x15 0x25",
    }, {19: [], 22: [], 25: ["OutboxHeartbeatStale page"]})
    s.add("the heartbeat and one topic are late", 40, {
        **stale,
        "outbox_oldest_pending_timestamp_seconds topic=orders": "600x40",
    }, {16: [], 19: ["OutboxHeartbeatStale page"]})
    s.add("nobody led a moment ago, so the heartbeat may be late", 40, {**stale, "outbox_leader": "1x14 0 1x25"},
          {19: [], 21: [], 24: ["OutboxHeartbeatStale page"]})
    s.add("kafka was away a moment ago, so the heartbeat may be late", 40, {**stale, "outbox_circuit_open": "0x14 1 0x25"},
          {19: [], 21: [], 24: ["OutboxHeartbeatStale page"]})
    s.add("heartbeats are off", 40, {"outbox_heartbeat_confirmed_timestamp_seconds": "0x40"}, {39: []})
    s.add("kafka confirms nothing", 12, {"outbox_circuit_open": "0 0 1x10"},
          {6: [], 8: ["OutboxCircuitOpen page"]})
    s.add("the deferred rows reach their limit", 10, {"outbox_reading_stopped cause=deferred_limit": "0x4 1x6"},
          {5: [], 7: ["OutboxReadingStopped page"]})
    s.add("rows flow but some wait long: pages, and a ticket for a topic of a low tier", 40, {
        "outbox_oldest_pending_timestamp_seconds topic=orders": "600x40",
        "outbox_oldest_pending_timestamp_seconds topic=clicks": "600x40",
    }, {14: [], 19: [], 23: ["OutboxLagHigh page topic=orders", "OutboxLagHigh ticket topic=clicks"]})
    s.add("the rate is used up and messages wait", 40, {"outbox_rate_limit": "50x5 46x35"},
          {18: [], 23: ["OutboxRateAtCap ticket"]})
    s.add("the rate is used up and messages wait for half a minute", 40, {
        "outbox_rate_limit": "46x40", "outbox_oldest_pending_timestamp_seconds": "1 30+60x39",
    }, {39: []})
    s.add("the rate is used up and none waits for long", 40, {
        "outbox_rate_limit": "46x40", "outbox_oldest_pending_timestamp_seconds": "0x40",
    }, {39: []})
    s.add("tries again use the rate up", 60, {
        "outbox_rate_limit": "60x60", "outbox_attempts_total result=rejected": steps((72, 20), (400, 40)),
    }, {34: [], 37: ["OutboxRetryStorm ticket"], 40: ["OutboxRetryStorm ticket", "OutboxRateAtCap ticket"]})
    s.add("no rate is set", 40, {"outbox_rate_limit": "0x40"}, {39: []})
    s.add("a topic that is paused or paced may wait", 40, {
        "outbox_oldest_pending_timestamp_seconds topic=orders": "600x40",
        "outbox_oldest_pending_timestamp_seconds topic=mail": "600x40",
        "outbox_topic_lane topic=orders cause=paused": "1x40",
        "outbox_topic_lane topic=mail cause=paced": "1x40",
    }, {39: []})
    s.add("an at-most-once topic waits in its lane like any other", 40, {
        "outbox_topic_lane topic=pulse cause=at_most_once": "1x40",
        "outbox_oldest_pending_timestamp_seconds topic=pulse": "600x40",
    }, {23: ["OutboxLagHigh page topic=pulse"]})
    s.add("a topic that failed and waits is told once, and from one that is paused", 40, {
        "outbox_topic_lane topic=orders cause=missing": "_x5 1x36",
        "outbox_topic_lane topic=clicks cause=stalled": "_x5 1x36",
        "outbox_topic_lane topic=pulse cause=at_most_once": "1x40",
        "outbox_oldest_pending_timestamp_seconds topic=orders": "300x40",
    }, {13: [], 18: ["OutboxTopicSick page topic=orders cause=missing", "OutboxTopicSick ticket topic=clicks cause=stalled"]})
    s.add("one of two relays cannot be scraped", 12, {f"up instance={STANDBY}": "1 1 0x10"},
          {6: [], 8: [f"OutboxTargetDown ticket instance={STANDBY}"]})
    s.add("a standby whose schema does not fit could not take over", 40, {
        f"outbox_log_lines_total instance={STANDBY} event=cannot_lead": "3 3 3+6x17 105x20",
    }, {12: [], 14: [f"OutboxCannotLead ticket instance={STANDBY}"], 18: [f"OutboxCannotLead ticket instance={STANDBY}"], 26: []})
    s.add("it says so every third minute", 40, {
        f"outbox_log_lines_total instance={STANDBY} event=cannot_lead": steps(*[(0, 2), (3, 1)] * 13),
    }, {12: [], 20: [f"OutboxCannotLead ticket instance={STANDBY}"], 38: [f"OutboxCannotLead ticket instance={STANDBY}"]})
    s.add("one relay cannot reach kafka", 20, {f"outbox_dependency_up instance={STANDBY} dependency=kafka": "1 1 0x20"},
          {11: [], 13: ["OutboxDependencyDown ticket dependency=kafka"]})
    s.add("kafka refuses the login", 20, {"outbox_kafka_errors_total class=authentication": "0 0 0+1x20"},
          {7: [], 9: ["OutboxAuthenticationFailing page"]})
    s.add("kafka refuses the rights", 20, {"outbox_kafka_errors_total class=authorization": "0 0 0+1x20"},
          {7: [], 9: ["OutboxAuthenticationFailing page"]})
    s.add("a refusal that is over", 40, {"outbox_kafka_errors_total class=authentication": "0 0 1x40"},
          {9: ["OutboxAuthenticationFailing page"], 30: []})
    s.add("three changes of the leader are a roll-out", 60, {
        f"outbox_leader_transitions_total instance={STANDBY}": "0x9 1x10 2x10 2x30",
    }, {29: [], 45: []})
    s.add("five changes in half an hour are not", 60, {
        f"outbox_leader_transitions_total instance={STANDBY}": "0x9 1x5 2x5 3x5 4x5 5x30",
    }, {12: [], 35: ["OutboxLeaderFlapping ticket"], 59: []})
    s.add("rows that nobody accounts for", 10, {"outbox_unaccounted_messages": "0x4 1x6"},
          {3: [], 6: ["OutboxUnaccountedMessages page"]})
    s.add("rows that nobody accounted for and that are published by now", 90, {"outbox_loss_incidents_total": "0x4 1x90"},
          {3: [], 6: ["OutboxUnaccountedMessages page"], 45: ["OutboxUnaccountedMessages page"], 80: []})
    s.add("reconciliation misses a message", 10, {"outbox_reconcile_missing_messages": "0x4 1x6"},
          {3: [], 6: ["OutboxReconcileFoundLoss page"]})
    s.add("a takeover repeats more than usual", 100, {"outbox_redeliveries_total cause=takeover topic=orders": "0x30 200x70"},
          {29: [], 33: ["OutboxRedeliverySpike ticket"], 98: []})
    s.add("new dead letters", 40, {
        "outbox_dead_lettered_total topic=mail": "0x9 3x40",
    }, {8: [], 12: ["OutboxDeadLettersNew ticket topic=mail"], 20: ["OutboxDeadLettersNew ticket topic=mail"], 30: []})
    s.add("messages need more tries", 40, {
        "outbox_rate_limit": "1000x40", "outbox_attempts_total result=rejected": steps((72, 9), (156, 31)),
    },
          {9: [], 22: [], 34: ["OutboxRetryStorm ticket"]})
    s.add("tries again and copies of at-most-once topics, of which there are none, are not the others'", 100, {
        "outbox_rate_limit": "1000x100", "outbox_attempts_total topic=pulse result=rejected": steps((720, 100)),
        "outbox_redeliveries_total topic=pulse cause=takeover": steps((60, 100)),
    }, {99: []}, values=[
        (90, "round(outbox:tries_per_message:ratio_rate5m * 100)", {f"{{{JOB}}}": 112}),
        (90, "round(outbox:possible_duplicates:ratio_rate1h * 1e6)", {f"{{{JOB}}}": 556}),
    ])
    s.add("somebody shortens a topic's retention, and puts another one back in time", 40, {
        "outbox_topic_setting_drift topic=orders setting=retention_ms": "0x5 1x35",
        "outbox_topic_setting_drift topic=clicks setting=partitions": "0x5 1x10 0x25",
    }, {18: [], 22: ["OutboxTopicSettingsDrifted ticket topic=orders setting=retention_ms"]})
    s.add("two configurations", 40, {f"outbox_config_info instance={STANDBY}": "_x40",
                                     f"outbox_config_info instance={STANDBY} digest=y": "1x40"},
          {28: [], 32: ["OutboxConfigurationsDiffer ticket"]})
    s.add("two owners of a topic while a configuration is rolled out break no rule", 20, {
        f"outbox_topic_info instance={STANDBY} topic=orders owner=checkout": "1x5 _x15",
        f"outbox_topic_info instance={STANDBY} topic=orders owner=basket tier=critical delivery=at_least_once": "_x5 1x15",
    }, {15: []}, values=[(15, 'count(outbox:lag:seconds{topic="orders"})', {"{}": 1})])
    s.add("the volume will be full in four hours", 100, {"outbox_table_bytes table=message": "10000000000+400000000x100"},
          {8: [], 20: ["OutboxVolumeFull page"], 75: ["OutboxVolumeFull page"]})
    s.add("the volume begins to fill up", 300, {
        "outbox_table_bytes table=message": "10000000000x240 10000000000+400000000x60",
    }, {280: [], 298: ["OutboxVolumeFull page"]})
    s.add("an at-most-once topic loses one message in a hundred", 30, {
        "outbox_messages_total topic=pulse outcome=dropped": "0+6x30",
    }, {4: [], 10: ["OutboxAtMostOnceLoss ticket topic=pulse"]})
    s.add("one lost message in four hundred is within the objective", 30, {
        "outbox_messages_total topic=pulse outcome=dropped": "0+1.5x30",
    }, {29: []})

    # Error budget. Rates over six hours need six hours; each branch of the alerts is shown alone.
    burn, slow_burn = "OutboxDeliveryErrorBudgetBurn page topic=mail", "OutboxDeliveryErrorBudgetBurnSlow ticket topic=mail"
    late, slow_late = "OutboxLatencyBudgetBurn page topic=mail", "OutboxLatencyBudgetBurnSlow ticket topic=mail"
    dead = "outbox_messages_total topic=mail outcome=dead_lettered"
    fast = "outbox_delivery_seconds_bucket topic=mail le=5"
    s.add("fast branch: two percent fail for an hour, and it is over when half an hour was clean", 160, {
        dead: steps((0, 60), (12, 60), (0, 40)),
    }, {118: [burn, slow_burn], 155: [slow_burn]})
    s.add("fast branch alone, not far above its thresholds, and five minutes that are better end it", 460, {
        dead: steps((0, 400), (25, 30), (3, 30)),
    }, {429: [burn, slow_burn], 440: [slow_burn]})
    s.add("twelve failures of a quiet topic wake somebody", 150, {
        "outbox_messages_total topic=mail outcome=delivered": "0x150",
        "outbox_attempts_total topic=mail": "0x150",
        dead: "0x119 12x31",
    }, {121: [burn, slow_burn]})
    s.add("the fast branch of latency alone, and five minutes that are better end it", 480, {
        fast: steps((582, 400), (60, 54), (420, 26)),
    }, {453: [late, slow_late], 460: [slow_late]})
    s.add("ten minutes of slow messages are too little for the hour", 440, {
        fast: steps((582, 400), (60, 10), (582, 30)),
    }, {409: []})
    s.add("forty minutes of latency are too little for six hours", 460, {
        fast: steps((582, 400), (300, 40), (582, 20)),
    }, {439: [slow_late]})
    # Each rate in the middle of its range, after a change: a longer range would show less of it, a shorter one more.
    s.add("the short ranges of errors and latency", 120, {
        dead: steps((0, 100), (600, 20)),
        fast: steps((600, 100), (300, 20)),
    }, {}, values=[
        (102, of_mail("errors", "5m"), {OF_MAIL: 286}),
        (115, of_mail("errors", "30m"), {OF_MAIL: 333}),
        (102, of_mail("slow", "5m"), {OF_MAIL: 200}),
        (115, of_mail("slow", "30m"), {OF_MAIL: 250}),
    ])
    # Of the share that is slow the count has a range of its own.
    s.add("the ranges of the messages of which some are slow", 600, {
        fast: steps((600, 600)),
        "outbox_delivery_seconds_count topic=mail": steps((600, 400), (1200, 200)),
    }, {}, values=[
        (minute, of_mail("slow", window), {OF_MAIL: share})
        for minute, window, share in ((402, "5m", 286), (415, "30m", 333), (430, "1h", 333), (460, "2h", 333), (580, "6h", 333))
    ])
    s.add("the ranges of everything else", 360, {
        "outbox_read_messages_total": steps((600, 300), (1200, 60)),
        "outbox_messages_total outcome=delivered": steps((600, 300), (1200, 60)),
        "outbox_messages_total topic=mail outcome=dead_lettered": steps((0, 300), (600, 60)),
        "outbox_messages_total topic=pulse outcome=dropped": steps((0, 300), (600, 60)),
        "outbox_attempts_total result=rejected": steps((72, 300), (1200, 60)),
        "outbox_redeliveries_total cause=crash": steps((0, 300), (60, 60)),
        "outbox_delivery_seconds_bucket topic=mail le=5": steps((600, 300), (588, 60)),
        "process_cpu_seconds_total": steps((6, 300), (60, 60)),
    }, {}, values=[
        (302, "round(outbox:produced:rate5m)", {f"{{{JOB}}}": 56}),
        (302, "round(outbox:delivered:rate5m)", {f"{{{JOB}}}": 56}),
        (302, "round(outbox:tries_per_message:ratio_rate5m * 100)", {f"{{{JOB}}}": 122}),
        (301, "round(outbox:retries:rate1m)", {f"{{{JOB}}}": 80}),
        (302, "round(outbox:retries:rate1m)", {f"{{{JOB}}}": 80}),
        (330, "round(outbox:possible_duplicates:ratio_rate1h * 1e5)", {f"{{{JOB}}}": 1111}),
        (330, 'round(outbox:dead_letters:ratio_rate1h{topic="mail"} * 1000)', {f'{{{JOB},topic="mail"}}': 250}),
        (330, 'round(outbox:at_most_once_loss:ratio_rate1h * 1000)',
         {f'{{{JOB},topic="pulse",owner="web",tier="standard"}}': 250}),
        (302, 'round(outbox:delivery_seconds:p95_5m{topic="mail"} * 1000)', {f'{{{JOB},topic="mail"}}': 4788}),
        (330, "round(outbox:cost:cpu_seconds_per_million)", {f"{{{JOB}}}": 18333}),
        (330, "round(outbox:cost:money_per_million * 1000)", {f"{{{JOB}}}": 183}),
    ])
    s.add("a topic of a low tier burns, and nobody is woken", 150, {
        "outbox_messages_total topic=clicks outcome=expired": steps((0, 60), (200, 60), (0, 30)),
    }, {118: ["OutboxDeliveryErrorBudgetBurn ticket topic=clicks", "OutboxDeliveryErrorBudgetBurnSlow ticket topic=clicks"],
        149: ["OutboxDeliveryErrorBudgetBurnSlow ticket topic=clicks"]})
    s.add("a few failures of a quiet topic wake nobody", 150, {
        "outbox_messages_total topic=mail outcome=delivered": "0x150",
        "outbox_attempts_total topic=mail": "0x150",
        "outbox_messages_total topic=mail outcome=dead_lettered": "0x119 7x31",
    }, {121: ["OutboxDeliveryErrorBudgetBurnSlow ticket topic=mail"]})
    s.add("losses of at-most-once topics do not burn this budget, and decisions of operators none", 150, {
        "outbox_messages_total topic=pulse outcome=dropped": steps((0, 60), (1, 90)),
        "outbox_messages_total topic=mail outcome=discarded": steps((0, 60), (12, 90)),
    }, {118: []})
    s.add("fast branch of latency: nine in ten are slow", 150, {
        "outbox_delivery_seconds_bucket topic=mail le=5": steps((582, 60), (60, 60), (600, 30)),
    }, {118: ["OutboxLatencyBudgetBurn page topic=mail", "OutboxLatencyBudgetBurnSlow ticket topic=mail"],
        145: ["OutboxLatencyBudgetBurnSlow ticket topic=mail"]})
    s.add("fast branch alone: one in five fails for five minutes, after hours without a failure", 420, {
        "outbox_messages_total topic=mail outcome=dead_lettered": steps((0, 400), (150, 5), (0, 15)),
    }, {405: ["OutboxDeliveryErrorBudgetBurn page topic=mail", "OutboxDeliveryErrorBudgetBurnSlow ticket topic=mail"],
        412: ["OutboxDeliveryErrorBudgetBurnSlow ticket topic=mail"]})
    s.add("two minutes of one in seven are too little for the hour", 420, {
        "outbox_messages_total topic=mail outcome=dead_lettered": steps((0, 400), (100, 2), (0, 18)),
    }, {402: []})
    return s


def days():
    """Steps of ten minutes; rates over five minutes are empty here."""
    s = Scenarios(10)
    hours = lambda h: h * 60
    at = lambda hour: f"0x{hour * 6} "
    s.add("ages just below their thresholds", hours(48), {
        # As of hour 40.
        "outbox_oldest_dead_letter_timestamp_seconds": f"{3600 * 20}x288",
        "outbox_oldest_blocked_key_timestamp_seconds": f"0x200 {3600 * 40 - 2400}x88",
        "outbox_oldest_transaction_timestamp_seconds": f"0x200 {3600 * 40 - 2400}x88",
        "outbox_oldest_slot_timestamp_seconds": f"{3600 * 8}x288",
        "outbox_certificate_expiry_timestamp_seconds": f"{3600 * 40 + 15 * 86400}x288",
        "outbox_reconcile_last_success_timestamp_seconds": f"{3600}x288",
        # A hundred times the budget for an hour, long ago.
        "outbox_leader_transitions_total": "1x288",
    }, {hours(40): []})
    s.add("dead letters and blocked keys that nobody looks at", hours(48), {
        "outbox_oldest_dead_letter_timestamp_seconds": f"{3600 * 10}x288",
        "outbox_oldest_blocked_key_timestamp_seconds": f"{3600 * 38}x288",
    }, {hours(33): [], hours(38): ["OutboxDeadLettersOld ticket"],
        hours(40): ["OutboxDeadLettersOld ticket", "OutboxBlockedKeysOld ticket"]})
    s.add("an old transaction and a slot that stays", hours(48), {
        "outbox_oldest_transaction_timestamp_seconds": f"{3600 * 38}x288",
        "outbox_oldest_slot_timestamp_seconds": f"{3600 * 2}x288",
    }, {hours(37): [], hours(38) + 20: [], hours(38) + 40: ["OutboxSlotNotEmptied ticket"],
        hours(40): ["OutboxOldTransaction ticket", "OutboxSlotNotEmptied ticket"]})
    s.add("reconciliation has never run", hours(52), {"outbox_reconcile_last_success_timestamp_seconds": "0x312"},
          {hours(47): [], hours(48) + 40: [], hours(50): ["OutboxReconcileStale ticket"]})
    s.add("a certificate expires in thirteen days; a relay without one does not hide it", hours(24), {
        f"outbox_certificate_expiry_timestamp_seconds instance={LEADER}": f"{14 * 86400 + 3600}x144",
    }, {60: [], hours(2): ["OutboxCertificateExpiring ticket"]})
    slow_page = {
        "outbox_messages_total topic=mail outcome=dead_lettered": "0+48x60",
    }
    s.add("page branch of six hours: 0.8 percent", hours(10), slow_page, {
        hours(8): ["OutboxDeliveryErrorBudgetBurn page topic=mail", "OutboxDeliveryErrorBudgetBurnSlow ticket topic=mail"]})
    s.add("the same share of a low tier is within its budget", hours(10), {
        "outbox_messages_total topic=clicks outcome=dead_lettered": "0+48x60",
    }, {hours(8): []})
    s.add("a critical topic has half the budget", hours(10), {
        "outbox_messages_total topic=orders outcome=dead_lettered": "0+24x60",
    }, {hours(8): ["OutboxDeliveryErrorBudgetBurn page topic=orders", "OutboxDeliveryErrorBudgetBurnSlow ticket topic=orders"]})
    s.add("ticket branch of a day: 0.4 percent, over two hours after the repair", hours(32), {
        "outbox_messages_total topic=mail outcome=dead_lettered": "0+24x144 3456x48",
    }, {hours(23): ["OutboxDeliveryErrorBudgetBurnSlow ticket topic=mail"],
        # The branch of three days still sees six hours of it.
        hours(31): []})
    s.add("ticket branch of three days: 0.2 percent", hours(80), {
        "outbox_messages_total topic=mail outcome=dead_lettered": "0+12x480",
    }, {hours(78): ["OutboxDeliveryErrorBudgetBurnSlow ticket topic=mail"]})
    s.add("0.08 percent for days is within the budget", hours(80), {
        "outbox_messages_total topic=mail outcome=dead_lettered": "0+4.8x480",
    }, {hours(78): []})
    s.add("an hour of two percent is over for the six hour branch when its half hour is clean", hours(20), {
        "outbox_messages_total topic=mail outcome=dead_lettered": "0x72 0+600x6 3600x60",
    }, {hours(13): ["OutboxDeliveryErrorBudgetBurn page topic=mail", "OutboxDeliveryErrorBudgetBurnSlow ticket topic=mail"],
        hours(14): ["OutboxDeliveryErrorBudgetBurnSlow ticket topic=mail"]})
    s.add("half an hour of one percent is too little for six hours", hours(20), {
        "outbox_messages_total topic=mail outcome=dead_lettered": "0x100 0+60x3 180x30",
    }, {hours(17) + 20: []})
    s.add("page branch of six hours of latency: two in five are slow", hours(10), {
        "outbox_delivery_seconds_bucket topic=mail le=5": "0+3600x60",
    }, {hours(8): ["OutboxLatencyBudgetBurn page topic=mail", "OutboxLatencyBudgetBurnSlow ticket topic=mail"]})
    s.add("ticket branch of a day of latency: one in five is slow", hours(32), {
        "outbox_delivery_seconds_bucket topic=mail le=5": "0+4800x144 691200+6000x48",
    }, {hours(23): ["OutboxLatencyBudgetBurnSlow ticket topic=mail"], hours(31): []})
    s.add("ticket branch of three days of latency: seven in a hundred are slow", hours(80), {
        "outbox_delivery_seconds_bucket topic=mail le=5": "0+5580x480",
    }, {hours(78): ["OutboxLatencyBudgetBurnSlow ticket topic=mail"]})
    # Each branch alone. Where traffic is even, a day of three times the budget is three days of once the budget; so two days of much
    # traffic without failures come before.
    slow_burn, slow_late = "OutboxDeliveryErrorBudgetBurnSlow ticket topic=mail", "OutboxLatencyBudgetBurnSlow ticket topic=mail"
    dead, fast = "outbox_messages_total topic=mail outcome=dead_lettered", "outbox_delivery_seconds_bucket topic=mail le=5"
    busy = {
        "outbox_messages_total topic=mail outcome=delivered": steps((60_000, 288), (6000, 192)),
        "outbox_delivery_seconds_count topic=mail": steps((60_000, 288), (6000, 192)),
    }
    s.add("the long ranges of the messages of which some are slow", hours(84), {
        fast: steps((6000, 504)), "outbox_delivery_seconds_count topic=mail": steps((6000, 300), (12000, 204)),
    }, {}, values=[
        (hours(hour), of_mail("slow", window), {OF_MAIL: share})
        for hour, window, share in ((62, "1d", 333), (80, "3d", 294))
    ])
    s.add("branch of a day alone", hours(80), {
        **busy, dead: steps((0, 288), (24, 192)), fast: steps((59_700, 288), (4800, 192)),
    }, {hours(73): [slow_burn, slow_late]})
    s.add("branch of a day alone, and two hours that are better end it", hours(80), {
        **busy, dead: steps((0, 288), (24, 150), (6, 42)), fast: steps((59_700, 288), (4800, 150), (5820, 42)),
    }, {hours(73): [slow_burn, slow_late], hours(75): []})
    s.add("two hours of half a percent, or of thirty percent that are late, are too little for a day and for three", hours(84), {
        dead: steps((0, 468), (30, 12), (0, 24)), fast: steps((5820, 468), (4200, 12), (5820, 24)),
    }, {hours(80): []})
    s.add("three days that are over the budget, and six hours that are better end it", hours(90), {
        dead: steps((0, 24), (12, 432), (3, 84)), fast: steps((5820, 24), (5580, 432), (5820, 84)),
    }, {hours(75): [slow_burn, slow_late], hours(83): []})
    s.add("six hours that are over the budget, and half an hour that is better ends the page", hours(24), {
        dead: steps((0, 60), (48, 48), (18, 36)), fast: steps((5820, 60), (3600, 48), (5400, 36)),
    }, {hours(18): ["OutboxDeliveryErrorBudgetBurn page topic=mail", "OutboxLatencyBudgetBurn page topic=mail", slow_burn, slow_late],
        hours(18) + 40: [slow_burn, slow_late]})
    s.add("ten failures have to be of the last six hours", hours(24), {
        "outbox_messages_total topic=mail outcome=delivered": "0x144",
        dead: steps((0, 60), (50, 2), (0, 70), (4, 12)),
    }, {hours(22) + 10: [slow_burn]})
    s.add("ten failures of six hours, of which few are new", hours(24), {
        "outbox_messages_total topic=mail outcome=delivered": "0x144",
        dead: steps((0, 100), (6, 2), (0, 20), (1, 22)),
    }, {hours(20) + 40: ["OutboxDeliveryErrorBudgetBurn page topic=mail", slow_burn]})
    # Each rate in the middle of its range, after a change: a longer range would show less of it, a shorter one more.
    middle = [("1h", 30), ("2h", 60), ("6h", 180), ("1d", 720), ("3d", 2160)]
    s.add("the long ranges of errors and latency", hours(112), {
        dead: steps((0, 450), (6000, 222)), fast: steps((6000, 450), (3000, 222)),
    }, {}, values=[
        (hours(75) + minutes, of_mail(what, window), {OF_MAIL: value})
        for window, minutes in middle for what, value in (("errors", 333), ("slow", 250))
    ])
    s.add("planned work of nearly a day, for which every relay is stopped", hours(30), {
        "outbox_maintenance_end_timestamp_seconds": f"0x6 {3600 * 23}x6 stale",
        **{metric: "1x12 stale" for metric in sorted({one.split("{")[0] for one in healthy(10, 10)})
           if not metric.startswith(("up", "outbox_maintenance_end_timestamp_seconds"))},
    }, {hours(12): [], hours(22): [], hours(24): ["OutboxNoLeader page"], hours(29): ["OutboxNoLeader@nowhere page"]}, drop=["up"])
    s.add("copies of an at-most-once topic", hours(60), {
        "outbox_redeliveries_total topic=pulse cause=takeover": steps((0, 200), (6, 160)),
    }, {}, values=[
        (hours(60), 'round(outbox:at_most_once_copies:increase1d{topic="pulse"})', {f'{{{JOB},topic="pulse"}}': 864}),
    ])
    return s


def months():
    """Steps of twelve hours; rates over less than a day are empty here."""
    s = Scenarios(720)
    at = lambda day: day * 24 * 60
    s.add("what is left of a month's budgets", at(60), {
        "outbox_messages_total topic=mail outcome=delivered": steps((432_000, 60), (864_000, 60)),
        "outbox_messages_total topic=mail outcome=dead_lettered": steps((0, 60), (432, 60)),
        "outbox_delivery_seconds_count topic=mail": steps((432_000, 60), (864_000, 60)),
        "outbox_delivery_seconds_bucket topic=mail le=5": steps((432_000, 60), (835_200, 60)),
    }, {}, values=[
        (at(44), 'round(outbox:delivery_errors:ratio_rate28d{topic="mail"} * 1e6)', {OF_MAIL: 333}),
        (at(44), 'round(outbox:delivery_slow:ratio_rate28d{topic="mail"} * 1e6)', {OF_MAIL: 22222}),
        (at(29), 'round(outbox:delivery_errors:budget_left28d{topic="mail"} * 100)', {OF_MAIL: 100}),
        (at(44), 'round(outbox:delivery_errors:budget_left28d{topic="mail"} * 100)', {OF_MAIL: 67}),
        (at(44), 'round(outbox:delivery_slow:budget_left28d{topic="mail"} * 100)', {OF_MAIL: 56}),
        (at(44), 'round(outbox:delivery_slow:budget_left28d{topic="orders"} * 100)',
         {f'{{{JOB},topic="orders",owner="checkout",tier="critical"}}': 25}),
    ])
    return s


class Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data):
        return True


def files():
    head = "# Generated by deploy/monitoring/scenarios.py; change that and run `make rules`.\n"
    plain = lambda document: {**document, "tests": [
        {key: value for key, value in test.items() if key != "changed"} for test in document["tests"]]}
    dump = lambda document: head + yaml.dump(plain(document), Dumper=Dumper, sort_keys=False, width=10_000)
    return {
        HERE / "rules_test.yml": dump(minutes().document()),
        HERE / "rules_days_test.yml": dump(days().document()),
        HERE / "rules_months_test.yml": dump(months().document()),
    }


def main():
    """Writes the files; with --check only compares them."""
    for path, content in files().items():
        if sys.argv[1:] == ["--check"]:
            if not path.exists() or path.read_text() != content:
                sys.exit(f"{path.name} is not what scenarios.py says: run `make rules` and commit it")
        else:
            path.write_text(content)


if __name__ == "__main__":
    main()
