#!/usr/bin/env python3
"""The one source of the recording and alert rules. Writes rules.yml, which Prometheus loads, and the same groups as a
PrometheusRule for its operator. `make rules` writes both and tests them; both are committed.

    RUNBOOKS=https://… DASHBOARDS=https://… OWNER=platform python3 deploy/monitoring/rules.py     with your own addresses and team

Words: `job` tells one outbox (its relays) from another. Severity `page` wakes somebody, `ticket` waits for the morning; for topics
whose tier is `low` nothing pages. Labels `owner` and `tier` come from the [[topic]] sections of the relay's configuration.
"""
import os
import sys
from pathlib import Path

import yaml

HERE = Path(__file__).resolve().parent
RUNBOOKS = os.environ.get("RUNBOOKS", "https://runbooks.example.org/outbox-relay")
DASHBOARDS = os.environ.get("DASHBOARDS", "https://grafana.example.org/d")
# Who is told what is about no single topic, and about topics without an owner.
OWNER = os.environ.get("OWNER", "platform")

# What is promised, by tier: the share of messages that may fail. Changing a number here changes alerts and dashboards.
ERROR_BUDGETS = {"critical": 0.0005, "standard": 0.001, "low": 0.01}
# The share that may take longer than the objective of five seconds. A bucket of outbox_delivery_seconds ends there.
# None is above a fifteenth: the page for a burn rate of 14.4 could never fire.
SLOW_BUDGETS = {"critical": 0.02, "standard": 0.05, "low": 0.06}
SLOW_AFTER = "5"
# At-most-once topics: one message in two hundred may be lost.
LOSS_BUDGET = 0.005
# The volume that Postgres writes to, in bytes, and the price of one CPU second: put your own numbers here.
VOLUME_BYTES = 100_000_000_000
PRICE_PER_CPU_SECOND = 0.00001

WINDOWS = ["5m", "30m", "1h", "2h", "6h", "1d", "3d"]
# Severity, long window, short window, burn rate: 2 % of a month's budget in an hour, 5 % in six, 10 % in a day, the rest in a month.
FAST = [("1h", "5m", 14.4), ("6h", "30m", 6)]
SLOW = [("1d", "2h", 3), ("3d", "6h", 1)]

INFO = "* on (job, topic) group_left (owner, tier) outbox:topic_info:one"
# Keeps the series of at-least-once topics: those of the others have levels of their own.
AT_LEAST_ONCE = 'and on (job, topic) outbox:topic_info:one{delivery="at_least_once"}'
AT_MOST_ONCE = 'and on (job, topic) outbox:topic_info:one{delivery="at_most_once"}'
BY_TIER = '{{ if eq $labels.tier "low" }}ticket{{ else }}page{{ end }}'


def text(expression):
    """The expression without the indentation that it has here."""
    lines = expression.strip("\n").split("\n")
    margin = min((len(line) - len(line.lstrip()) for line in lines if line.strip()), default=0)
    return "\n".join(line[margin:].rstrip() for line in lines) + "\n"


def record(name, expression, labels=None):
    rule = {"record": name, "expr": text(expression)}
    if labels:
        rule["labels"] = labels
    return rule


# Planned work (`outbox-relay maintenance start`) holds back what says that messages stand still or are late. It never holds back what
# says that messages are lost, or that the volume fills up: planned work makes that more likely, and it stops every service that writes.
# The rules do it, and not Alertmanager, because many share an Alertmanager whose configuration is not theirs.
HELD = "unless on (job) outbox:maintenance:holds == 1"
# What waited meanwhile, or while its topic was paused, is delivered late afterwards, and stands in the fast burn's long window for an
# hour more. So does what waited for an outage, which has paged somebody already: one outage is one page.
OUTAGES = "OutboxNoLeader|OutboxStalled|OutboxCircuitOpen|OutboxReadingStopped"
HELD_AND_AFTER = f"""
unless on (job) max_over_time(outbox:maintenance:holds[1h]) == 1
unless on (job, topic) max by (job, topic) (max_over_time(outbox_topic_lane{{cause="paused"}}[1h])) == 1
unless on (job) max by (job) (max_over_time(ALERTS{{alertname=~"{OUTAGES}", alertstate="firing"}}[1h])) == 1
""".strip()


def held(expression, how=HELD):
    """The expression, held back while planned work goes on."""
    inner = "\n".join("  " + line for line in text(expression).rstrip("\n").split("\n"))
    return f"(\n{inner}\n)\n{how}"


def alert(name, severity, expression, summary, description, wait=None, dashboard="outbox-on-call"):
    rule = {"alert": name, "expr": text(expression)}
    if wait:
        rule["for"] = wait
    # By whom it is about, or else the relay's own people: Alertmanager groups and routes by it.
    rule["labels"] = {"severity": severity, "owner": f"{{{{ with $labels.owner }}}}{{{{ . }}}}{{{{ else }}}}{OWNER}{{{{ end }}}}"}
    rule["annotations"] = {
        "summary": summary,
        "description": description,
        "runbook_url": f"{RUNBOOKS}/{name}.md",
        "dashboard_url": f"{DASHBOARDS}/{dashboard}",
    }
    return rule


def ratios(window):
    """How much of the budgets a window's messages have used."""
    return [
        # 1. Delivery success rate, as its complement: of all messages that reached an end, those that no consumer gets. A dead letter
        # that is requeued reaches a second end; one that is discarded has been counted when it died.
        record(f"outbox:delivery_errors:ratio_rate{window}", f"""
            (
              sum by (job, topic) (rate(outbox_messages_total{{outcome!~"delivered|discarded"}}[{window}]))
              /
              (sum by (job, topic) (rate(outbox_messages_total{{outcome!="discarded"}}[{window}])) > 0)
            )
            {INFO}{{delivery="at_least_once"}}
            """),
        record(f"outbox:delivery_errors:burn_rate{window}", f"""
            outbox:delivery_errors:ratio_rate{window} / on (tier) group_left () outbox:error_budget:ratio
            """),
        # 7. Time to deliver, as the share that took longer than the objective. What was never delivered is in no histogram: lag tells.
        record(f"outbox:delivery_slow:ratio_rate{window}", f"""
            (
              1 -
              sum by (job, topic) (rate(outbox_delivery_seconds_bucket{{le="{SLOW_AFTER}"}}[{window}]))
              /
              (sum by (job, topic) (rate(outbox_delivery_seconds_count[{window}])) > 0)
            )
            {INFO}{{delivery="at_least_once"}}
            """),
        record(f"outbox:delivery_slow:burn_rate{window}", f"""
            outbox:delivery_slow:ratio_rate{window} / on (tier) group_left () outbox:slow_budget:ratio
            """),
    ]


def budgets():
    """What is left of a month's budgets. 28 days are four whole weeks; a Prometheus that keeps less says it of what it keeps."""
    return ratios("28d") + [
        record("outbox:delivery_errors:budget_left28d", "1 - outbox:delivery_errors:burn_rate28d"),
        record("outbox:delivery_slow:budget_left28d", "1 - outbox:delivery_slow:burn_rate28d"),
    ]


def recordings():
    rules = [
        # One owner, tier and delivery a topic, also while two configurations are rolled out side by side.
        record("outbox:topic_info:one", """
            topk by (job, topic) (1, max by (job, topic, owner, tier, delivery) (outbox_topic_info))
            """),
    ]
    rules += [
        record("outbox:error_budget:ratio", f"vector({budget})", {"tier": tier})
        for tier, budget in ERROR_BUDGETS.items()
    ]
    rules += [
        record("outbox:slow_budget:ratio", f"vector({budget})", {"tier": tier})
        for tier, budget in SLOW_BUDGETS.items()
    ]
    rules += [
        record("outbox:volume_capacity:bytes", f"vector({VOLUME_BYTES})"),
        record("outbox:price:per_cpu_second", f"vector({PRICE_PER_CPU_SECOND})"),
    ]
    for window in WINDOWS:
        rules += ratios(window)
    rules += [
        # Whether planned work goes on: 1 until the announced end, 0 otherwise. By the end and not by outbox_maintenance, which stays as
        # it is when Postgres cannot be asked; and for a day, the longest that is taken, also when all relays are stopped for it.
        record("outbox:maintenance:holds", """
            (
              max by (job) (outbox_maintenance_end_timestamp_seconds)
              or
              max by (job) (last_over_time(outbox_maintenance_end_timestamp_seconds[1d]))
            )
            > bool time()
            """),
        record("outbox:delivery_failed:increase6h", """
            sum by (job, topic) (increase(outbox_messages_total{outcome!~"delivered|discarded"}[6h]))
            """),
        # 2. Duplicates, at most: what was sent again although it may have arrived. The true number comes from reconciliation, or from
        # the consumers. What an operator asked for is not counted.
        record("outbox:possible_duplicates:ratio_rate1h", """
            sum by (job) (rate(outbox_redeliveries_total{cause!~"requeue|replay"}[1h]) %(A)s)
            /
            (sum by (job) (rate(outbox_messages_total{outcome="delivered"}[1h]) %(A)s) > 0)
            """ % {"A": AT_LEAST_ONCE}),
        # 3. Tries per message; the objective is 1.2 at most.
        record("outbox:tries_per_message:ratio_rate5m", """
            sum by (job) (rate(outbox_attempts_total[5m]) %(A)s)
            /
            (sum by (job) (rate(outbox_messages_total{outcome=~"delivered|dead_lettered"}[5m]) %(A)s) > 0)
            """ % {"A": AT_LEAST_ONCE}),
        # 4. Repetitions a second; the peak of a day is max_over_time(outbox:retries:rate1m[1d]).
        record("outbox:retries:rate1m", """
            sum by (job) (rate(outbox_attempts_total{result!="ack"}[1m]))
            """),
        # 5. Lag: how long the oldest message has been waiting; 0 when none waits.
        record("outbox:lag:seconds", f"""
            max by (job, topic) (
              clamp_min(time() - (outbox_oldest_pending_timestamp_seconds > 0), 0)
              or
              0 * outbox_oldest_pending_timestamp_seconds
            )
            {INFO}
            """),
        # 6. Dead-letter rate.
        record("outbox:dead_letters:ratio_rate1h", """
            sum by (job, topic) (rate(outbox_messages_total{outcome="dead_lettered"}[1h]))
            /
            (sum by (job, topic) (rate(outbox_messages_total{outcome!="discarded"}[1h])) > 0)
            """),
        # 7. Time to deliver, 95th percentile.
        record("outbox:delivery_seconds:p95_5m", """
            histogram_quantile(0.95, sum by (job, topic, le) (rate(outbox_delivery_seconds_bucket[5m])))
            """),
        # 8. Produced against delivered, in messages a second.
        record("outbox:produced:rate5m", "sum by (job) (rate(outbox_read_messages_total[5m]))"),
        record("outbox:delivered:rate5m", """
            sum by (job) (rate(outbox_messages_total{outcome="delivered"}[5m]))
            """),
        # 9. Cost per million messages: CPU seconds, and money.
        record("outbox:cost:cpu_seconds_per_million", """
            1e6 * sum by (job) (rate(process_cpu_seconds_total[1h]) and on (job, instance) outbox_build_info)
            /
            (sum by (job) (rate(outbox_messages_total{outcome="delivered"}[1h])) > 0)
            """),
        record("outbox:cost:money_per_million", """
            outbox:cost:cpu_seconds_per_million * on () group_left () outbox:price:per_cpu_second
            """),
        # 10. Loss incidents: rows that nobody accounts for, and messages that are not where their receipts say.
        record("outbox:loss:messages", """
            max by (job) (outbox_unaccounted_messages) + max by (job) (outbox_reconcile_missing_messages)
            """),
        # At-most-once topics, which have levels of their own: the share that was lost, and copies, of which there must be none.
        record("outbox:at_most_once_loss:ratio_rate1h", """
            (
              sum by (job, topic) (rate(outbox_messages_total{outcome="dropped"}[1h]))
              /
              (sum by (job, topic) (rate(outbox_messages_total{outcome=~"delivered|dropped"}[1h])) > 0)
            )
            """ + f"            {INFO}{{delivery=\"at_most_once\"}}"),
        record("outbox:at_most_once_copies:increase1d", f"""
            sum by (job, topic) (increase(outbox_redeliveries_total{{cause!~"requeue|replay"}}[1d]) {AT_MOST_ONCE})
            """),
    ]
    return rules


def burns(burn_rate, pairs):
    """Both windows over the threshold, for one of the pairs."""
    parts = [f"({burn_rate}{long} > {rate} and {burn_rate}{short} > {rate})" for long, short, rate in pairs]
    return "\nor\n".join(parts)


def service_levels():
    errors, slow = "outbox:delivery_errors:burn_rate", "outbox:delivery_slow:burn_rate"
    floor = "outbox:delivery_failed:increase6h >= 10"
    return [
        alert("OutboxDeliveryErrorBudgetBurn", BY_TIER,
              held(f"(\n{burns(errors, FAST)}\n)\nand on (job, topic) {floor}"),
              "Messages become dead letters, expire or get lost so fast that the month's error budget will be gone within days.",
              "Topic {{ $labels.topic }} ({{ $labels.job }}) spends its error budget {{ $value | humanize }} times as fast as it may."),
        alert("OutboxDeliveryErrorBudgetBurnSlow", "ticket",
              burns(errors, SLOW),
              "More messages fail than the objective allows.",
              "Topic {{ $labels.topic }} ({{ $labels.job }}) spends its error budget {{ $value | humanize }} times as fast as it may.",
              dashboard="outbox-executive"),
        alert("OutboxLatencyBudgetBurn", BY_TIER,
              held(burns(slow, FAST), HELD_AND_AFTER),
              "Far more messages than allowed take longer than five seconds from insert to Kafka.",
              "Messages of topic {{ $labels.topic }} ({{ $labels.job }}) that take longer than 5 s spend their budget {{ $value | humanize }} times as fast as they may."),
        alert("OutboxLatencyBudgetBurnSlow", "ticket",
              burns(slow, SLOW),
              "More messages than the objective allows take longer than five seconds from insert to Kafka.",
              "Messages of topic {{ $labels.topic }} ({{ $labels.job }}) that take longer than 5 s spend their budget {{ $value | humanize }} times as fast as they may.",
              dashboard="outbox-executive"),
        alert("OutboxAtMostOnceLoss", "ticket",
              f"outbox:at_most_once_loss:ratio_rate1h > {LOSS_BUDGET}",
              "An at-most-once topic loses more messages than its objective allows.",
              "Topic {{ $labels.topic }} ({{ $labels.job }}) lost {{ $value | humanizePercentage }} of the last hour.",
              wait="5m"),
    ]


def outages():
    return [
        alert("OutboxNoLeader", "page",
              # All relays of an outbox are gone: it is still known from the day before, and so is planned work. If nothing is, nothing
              # says of which outbox.
              f"((sum by (job) (outbox_leader) == 0) {HELD})\n"
              f"or\n((sum by (job) (last_over_time(outbox_leader[1d])) unless on (job) sum by (job) (outbox_leader)) {HELD})\n"
              "or\nabsent(last_over_time(outbox_leader[1d]))",
              "No relay holds the lease, so nothing is published.",
              "For a minute no relay of {{ $labels.job }} has led.", wait="1m"),
        alert("OutboxStalled", "page", held("""
              max by (job) (outbox_backlog_messages{state="ready"}) > 0
              and on (job) max by (job) (outbox:lag:seconds) > 120
              and on (job) sum by (job) (rate(outbox_messages_total[5m]) %s) == 0
              """ % AT_LEAST_ONCE),
              "Messages wait and none is delivered.",
              "{{ $labels.job }} has about {{ $value | humanize }} messages waiting and has delivered none for five minutes.", wait="2m"),
        # A page although it may be the heartbeat's topic alone: it is the one sign that covers what nobody has thought of. Where others were
        # late as well, nobody led, or Kafka was away a moment ago, that is told already. A heartbeat waits as long as others do, and the
        # next one is written after it: at the last confirmed one's age of five minutes the others wait for half of that. 0: heartbeats
        # are off, or none was confirmed yet.
        alert("OutboxHeartbeatStale", "page", held("""
              time() - (max by (job) (outbox_heartbeat_confirmed_timestamp_seconds) > 0) > 300
              unless on (job) count by (job) (
                max_over_time(outbox:lag:seconds[5m]) > 120
              ) > 1
              unless on (job) min_over_time((sum by (job) (outbox_leader))[5m:1m]) == 0
              unless on (job) max by (job) (max_over_time(outbox_circuit_open[5m])) == 1
              """),
              "No heartbeat row has gone all the way from Postgres to Kafka for more than five minutes.",
              "The last heartbeat of {{ $labels.job }} was confirmed {{ $value | humanizeDuration }} ago.", wait="2m"),
        alert("OutboxCircuitOpen", "page",
              held("max by (job) (outbox_circuit_open) == 1"),
              "Kafka confirms nothing, so the relay hands nothing over; messages wait in Postgres.",
              "The circuit of {{ $labels.job }} has been open for five minutes.", wait="5m"),
        alert("OutboxReadingStopped", "page",
              held('max by (job) (outbox_reading_stopped{cause="deferred_limit"}) == 1'),
              "So many rows are deferred that the relay reads no more, of any topic.",
              "{{ $labels.job }} holds retry.deferred_max rows back and reads nothing.", wait="1m"),
        # A topic that is read on its own waits for a reason, which OutboxTopicSick tells, or which somebody has set.
        alert("OutboxLagHigh", BY_TIER, held("""
              (
                outbox:lag:seconds > 300
                unless on (job, topic) max by (job, topic) (outbox_topic_lane{cause!="at_most_once"}) == 1
              )
              and on (job) sum by (job) (rate(outbox_messages_total[5m]) %s) > 0
              """ % AT_LEAST_ONCE),
              "Messages are delivered, but some wait far too long.",
              "The oldest message of topic {{ $labels.topic }} ({{ $labels.job }}) has waited {{ $value | humanizeDuration }}.", wait="5m"),
        alert("OutboxTargetDown", "ticket",
              held('up{job=~".*outbox-relay.*"} == 0'),
              "A relay cannot be scraped: it is down, or the way to it is.",
              "{{ $labels.instance }} of {{ $labels.job }} has not answered for five minutes.", wait="5m"),
        alert("OutboxDependencyDown", "ticket",
              held("min by (job, dependency) (outbox_dependency_up) == 0"),
              "A relay cannot use Postgres or Kafka.",
              "{{ $labels.dependency }} fails for a relay of {{ $labels.job }}.", wait="10m"),
        alert("OutboxCannotLead", "ticket",
              held('sum by (job, instance) (increase(outbox_log_lines_total{event="cannot_lead"}[5m])) > 0'),
              "A relay cannot take the lease, now or when the leader goes: the schema does not fit it, or Postgres or Kafka refuse it.",
              "{{ $labels.instance }} of {{ $labels.job }} has said so for ten minutes; its log says why.", wait="10m"),
        alert("OutboxAuthenticationFailing", "page",
              held('sum by (job) (increase(outbox_kafka_errors_total{class=~"authentication|authorization"}[10m])) > 0'),
              "Kafka refuses the relay's login or rights.",
              "{{ $labels.job }} was refused {{ $value | humanize }} times in ten minutes.", wait="5m"),
        alert("OutboxLeaderFlapping", "ticket",
              held("sum by (job) (increase(outbox_leader_transitions_total[30m])) > 3"),
              "The lease goes from relay to relay.",
              "The leader of {{ $labels.job }} changed {{ $value | humanize }} times in half an hour."),
    ]


def losses():
    return [
        alert("OutboxUnaccountedMessages", "page",
              "max by (job) (outbox_unaccounted_messages) > 0 or sum by (job) (increase(outbox_loss_incidents_total[1h])) > 0",
              "Committed rows were passed by without being published: a bug of the relay, or rows changed by hand.",
              "{{ $labels.job }} has found rows that nobody accounts for: {{ $value | humanize }}."),
        alert("OutboxReconcileFoundLoss", "page",
              "max by (job) (outbox_reconcile_missing_messages) > 0",
              "Messages that the relay had confirmed are not in Kafka.",
              "Reconciliation of {{ $labels.job }} misses {{ $value | humanize }} messages."),
        alert("OutboxReconcileStale", "ticket",
              "time() - max by (job) (outbox_reconcile_last_success_timestamp_seconds) > 2 * 86400",
              "Nobody has compared Postgres with Kafka for two days.",
              "The last reconciliation of {{ $labels.job }} ended {{ $value | humanizeDuration }} ago.", wait="1h"),
        alert("OutboxRedeliverySpike", "ticket",
              "outbox:possible_duplicates:ratio_rate1h > 0.001",
              "More messages than usual may have arrived twice; consumers that deduplicate on the event id are safe.",
              "{{ $labels.job }} sent {{ $value | humanizePercentage }} of its messages again in the last hour."),
    ]


def failures():
    return [
        alert("OutboxDeadLettersNew", "ticket", f"""
              (sum by (job, topic) (increase(outbox_dead_lettered_total[15m])) > 0)
              {INFO}
              """,
              "Messages were given up and wait for a decision.",
              "Topic {{ $labels.topic }} ({{ $labels.job }}) has new dead letters: {{ $value | humanize }} in 15 minutes."),
        alert("OutboxDeadLettersOld", "ticket",
              "time() - (max by (job) (outbox_oldest_dead_letter_timestamp_seconds) > 0) > 86400",
              "A dead letter has waited for a decision for more than a day.",
              "The oldest dead letter of {{ $labels.job }} is {{ $value | humanizeDuration }} old."),
        alert("OutboxBlockedKeysOld", "ticket",
              "time() - (max by (job) (outbox_oldest_blocked_key_timestamp_seconds) > 0) > 3600",
              "A key has been blocked for more than an hour: its later messages wait for one that fails.",
              "The longest blocked key of {{ $labels.job }} has waited {{ $value | humanizeDuration }}."),
        alert("OutboxTopicSick", BY_TIER, held(f"""
              (max by (job, topic, cause) (outbox_topic_lane{{cause!~"at_most_once|paused|paced"}}) == 1)
              {INFO}
              """),
              "A topic cannot take messages, or not at the pace at which they come; all others go on.",
              "Topic {{ $labels.topic }} ({{ $labels.job }}) has been read on its own for ten minutes: {{ $labels.cause }}.", wait="10m"),
        alert("OutboxRetryStorm", "ticket",
              "outbox:tries_per_message:ratio_rate5m > 1.2",
              "Messages need more tries than the objective of 1.2 allows.",
              "{{ $labels.job }} needs {{ $value | humanize }} tries a message.", wait="15m"),
        # Tries again take their share of the rate: with many of them less is left for what is new.
        alert("OutboxRateAtCap", "ticket", """
              sum by (job) (rate(outbox_attempts_total[5m])) > 0.95 * (max by (job) (outbox_rate_limit) > 0)
              and on (job) max by (job) (outbox:lag:seconds) > 60
              """,
              "The relay sends as fast as relay.rate, or an operator's rate, allows, and messages wait.",
              "{{ $labels.job }} makes {{ $value | humanize }} tries a second, which is all that it may, and messages wait.", wait="15m"),
        # By the database's clock: the end is kept until somebody ends the work, or no topic is paused any more.
        alert("OutboxMaintenanceOverdue", "ticket", """
              time() - (max by (job) (outbox_maintenance_end_timestamp_seconds) > 0)
              unless on (job) max by (job) (outbox_maintenance) == 1
              """,
              "The time of planned work is over, nobody has ended it, and a topic is still paused. Alerts are on again.",
              "The maintenance of {{ $labels.job }} was to end {{ $value | humanizeDuration }} ago.", wait="15m"),
    ]


def resources():
    return [
        alert("OutboxOldTransaction", "ticket",
              "time() - (max by (job) (outbox_oldest_transaction_timestamp_seconds) > 0) > 3600",
              "A transaction has been open for more than an hour: slots cannot be emptied and Postgres cannot clean up.",
              "The oldest transaction beside {{ $labels.job }} has been open for {{ $value | humanizeDuration }}."),
        alert("OutboxSlotNotEmptied", "ticket",
              # Retention, and half of it more; a slot is a sixth of retention wide.
              """
              time() - (max by (job) (outbox_oldest_slot_timestamp_seconds) > 0)
              > on (job) 1.5 * max by (job) (outbox_retention_published_seconds)
              """,
              "Published rows are older than retention and ring allow: a slot is not emptied.",
              "The oldest row of {{ $labels.job }} is {{ $value | humanizeDuration }} old.", wait="30m"),
        alert("OutboxVolumeFull", "page", """
              predict_linear(sum by (job) (max by (job, table) (outbox_table_bytes))[1h:1m], 4 * 3600)
              > on () group_left () outbox:volume_capacity:bytes
              """,
              "At this rate the outbox fills its volume within four hours.",
              "The tables of {{ $labels.job }} will be {{ $value | humanize1024 }}B in four hours.", wait="10m"),
        alert("OutboxCertificateExpiring", "ticket",
              "(min by (job) (outbox_certificate_expiry_timestamp_seconds > 0)) - time() < 14 * 86400",
              "A certificate that the relay presents to Postgres or Kafka expires within two weeks.",
              "The certificate of {{ $labels.job }} expires in {{ $value | humanizeDuration }}."),
        alert("OutboxTopicSettingsDrifted", "ticket", f"""
              (max by (job, topic, setting) (outbox_topic_setting_drift) == 1)
              {INFO}
              """,
              "A setting of a topic changed behind the relay's back, or can lose records.",
              "{{ $labels.setting }} of topic {{ $labels.topic }} ({{ $labels.job }}) is not what the leader saw first.", wait="15m"),
        alert("OutboxConfigurationsDiffer", "ticket",
              "count by (job) (count by (job, digest) (outbox_config_info)) > 1",
              "Relays of one outbox run with different configurations: a takeover would change behaviour.",
              "{{ $labels.job }} runs with {{ $value | humanize }} configurations.", wait="30m"),
    ]


def groups():
    return [
        {"name": "outbox-recordings", "interval": "30s", "rules": recordings()},
        # A month is a lot to read: seldom.
        {"name": "outbox-budgets", "interval": "10m", "rules": budgets()},
        {"name": "outbox-service-levels", "rules": service_levels()},
        {"name": "outbox-outages", "rules": outages()},
        {"name": "outbox-losses", "rules": losses()},
        {"name": "outbox-failures", "rules": failures()},
        {"name": "outbox-resources", "rules": resources()},
    ]


class Dumper(yaml.SafeDumper):
    """Block style for expressions, no aliases."""

    def ignore_aliases(self, data):
        return True


Dumper.add_representer(str, lambda dumper, value: dumper.represent_scalar(
    "tag:yaml.org,2002:str", value, style="|" if "\n" in value else None))

HEAD = "# Generated by deploy/monitoring/rules.py; change that and run `make rules`.\n"


def dump(document):
    return HEAD + yaml.dump(document, Dumper=Dumper, sort_keys=False, width=10_000, allow_unicode=True)


def files():
    """Path and text of everything that is generated here."""
    rule = {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": {"name": "outbox-relay"},
        "spec": {"groups": groups()},
    }
    return {
        HERE / "rules.yml": dump({"groups": groups()}),
        HERE.parent / "kubernetes/components/monitoring/rules.yaml": dump(rule),
    }


def main():
    """Writes the files; with --check only compares them."""
    for path, content in files().items():
        if sys.argv[1:] == ["--check"]:
            if not path.exists() or path.read_text() != content:
                sys.exit(f"{path.relative_to(HERE.parent.parent)} is not what rules.py says: run `make rules` and commit it")
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content)


if __name__ == "__main__":
    main()
