//! The page itself: facts in, HTML out. Pure. Every text goes through the template, which escapes it; there is no script.

use maud::{DOCTYPE, Markup, PreEscaped, html};
use sha2::{Digest, Sha256};

use super::chart;
use super::{Facts, Found, Point};
use crate::store::inspect::{LetterGroup, RequestRow, Status, Term, TopicRow};
use crate::telemetry::Change;

/// The browser loads the page anew after so many seconds.
const REFRESH_S: u32 = 5;
/// Rows of a table; `outbox-relay topics list` has them all.
const ROWS: usize = 25;

/// A message that has waited for longer than this is late, as the dashboards see it.
const FAR_BEHIND_S: f64 = 60.0;

const STYLE: &str = include_str!("style.css");

/// The digest by which the page's policy admits its style, and nothing else.
pub fn style_digest() -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(Sha256::digest(STYLE))
}

/// The whole page.
pub fn page(facts: &Facts) -> String {
    let (state, words) = verdict(facts);
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                meta http-equiv="refresh" content=(REFRESH_S);
                title { (words) " · outbox-relay" }
                style { (PreEscaped(STYLE)) }
            }
            body {
                header {
                    h1 { "outbox-relay" }
                    p.verdict.(state) { (words) }
                    p.quiet {
                        (facts.relay) ", " (if facts.leads { "leads" } else { "stands by" }) ", version " (facts.version)
                        @if let Some(age) = facts.age_seconds {
                            ", as of " (format!("{age:.0}")) " s ago"
                        } @else {
                            ", nothing is known of the database yet"
                        }
                    }
                    @if let Some(trouble) = &facts.trouble {
                        p.trouble { "The database cannot be asked: " (trouble) }
                    }
                }
                main {
                    section { h2 { "Now" } (now(facts)) }
                    section { h2 { "The last ten minutes" } (charts(&facts.points)) }
                    @if let Some(found) = &facts.found {
                        section { h2 { "Topics of which something waits" } (topics(&found.status.topics)) }
                        section { h2 { "Set by operators" } (in_effect(&found.status.in_effect)) }
                        section { h2 { "Dead letters by cause" } (groups(&found.groups)) }
                    }
                    section { h2 { "Lately, as this relay has logged it" } (changes(&facts.changes)) }
                    @if let Some(found) = &facts.found {
                        section { h2 { "Leases" } (terms(&found.terms)) }
                    }
                }
                footer { a href="/api/status" { "the same as JSON" } " · " a href="/metrics" { "metrics" } " · " a href="/readyz" { "ready?" } }
            }
        }
    };
    page.into_string()
}

/// What a tired person reads first, the worst that holds; and its class: `bad`, `fair` or `good`.
fn verdict(facts: &Facts) -> (&'static str, &'static str) {
    let Some(found) = &facts.found else {
        return if facts.trouble.is_some() { ("bad", "Postgres is away") } else { ("fair", "looking") };
    };
    let o = &found.status.overview;
    match () {
        () if facts.lost > 0 => ("bad", "messages are missing"),
        () if facts.trouble.is_some() => ("bad", "Postgres is away"),
        () if o.holder.is_none() => ("bad", "nobody leads"),
        () if found.status.silent => ("bad", "the leader is silent"),
        () if facts.circuit_open => ("bad", "Kafka confirms nothing"),
        () if !facts.kafka_up => ("bad", "Kafka is away"),
        () if o.dead_letters > 0 => ("fair", "moving, and dead letters wait for a person"),
        () if o.blocked_keys > 0 => ("fair", "moving, and some keys are blocked"),
        () if found.status.topics.iter().any(|topic| topic.cause.is_some()) => {
            ("fair", "moving, and some topics are read apart")
        }
        () if o.lag_seconds > FAR_BEHIND_S => ("fair", "moving, and far behind"),
        () if o.oldest.is_some() => ("good", "moving"),
        () => ("good", "nothing waits"),
    }
}

fn now(facts: &Facts) -> Markup {
    let up = |up: bool| if up { "answers" } else { "away" };
    html! {
        dl {
            @if let Some(Found { status: Status { overview: o, silent, .. }, .. }) = &facts.found {
                (fact("leader", &match (&o.holder, silent) {
                    (None, _) => "nobody".to_owned(),
                    (Some(holder), false) => holder.clone(),
                    (Some(holder), true) => format!("{holder}, silent for {:.0} s", o.beat_seconds),
                }))
                (fact("leads since", &o.since.as_deref().map_or_else(none, time)))
                (fact("epoch", &o.epoch.to_string()))
                (fact("lag", &format!("{:.1} s", o.lag_seconds)))
                (fact("unread", &o.ready.to_string()))
                (fact("in lanes", &o.laned.to_string()))
                (fact("retrying", &o.retrying.to_string()))
                (fact("behind them", &o.behind.to_string()))
                (fact("blocked keys", &o.blocked_keys.to_string()))
                (fact("scheduled", &o.scheduled.to_string()))
                (fact("dead letters", &o.dead_letters.to_string()))
                (fact("open requests", &o.open_requests.to_string()))
            }
            (fact("missing", &facts.lost.to_string()))
            (fact("circuit", if facts.circuit_open { "open" } else { "closed" }))
            (fact("Postgres", up(facts.postgres_up)))
            (fact("Kafka", up(facts.kafka_up)))
        }
    }
}

fn fact(name: &str, value: &str) -> Markup {
    html! { div { dt { (name) } dd { (value) } } }
}

fn charts(points: &[Point]) -> Markup {
    let last = points.last().copied().unwrap_or_default();
    html! {
        div.charts {
            (chart("lag", &format!("{:.1} s", last.lag_seconds), points, |point| point.lag_seconds))
            (chart("waiting", &format!("{:.0}", last.waiting), points, |point| point.waiting))
            (chart("passed", &format!("{:.0} a second", last.passed), points, |point| point.passed))
        }
    }
}

fn chart(name: &str, value: &str, points: &[Point], of: impl Fn(&Point) -> f64) -> Markup {
    html! {
        figure {
            figcaption { (name) ": " strong { (value) } }
            @if let Some(path) = chart::line(points, of) {
                svg viewBox=(chart::view_box()) preserveAspectRatio="none" role="img" aria-label={ (name) ", now " (value) } {
                    path d=(path) vector-effect="non-scaling-stroke" {}
                }
            }
        }
    }
}

fn topics(topics: &[TopicRow]) -> Markup {
    table(
        &["topic", "read apart", "in its lane", "retrying", "behind", "scheduled", "dead", "oldest"],
        "Nothing waits.",
        topics.iter().take(ROWS).map(|row| {
            vec![
                row.topic.clone(),
                row.cause.clone().unwrap_or_else(none),
                row.waiting.to_string(),
                row.retrying.to_string(),
                row.behind.to_string(),
                row.scheduled.to_string(),
                row.dead_letters.to_string(),
                row.oldest.as_deref().map_or_else(none, time),
            ]
        }),
        topics.len(),
    )
}

fn in_effect(requests: &[RequestRow]) -> Markup {
    table(
        &["what", "topic", "value", "until", "who", "why"],
        "Nothing is paused, paced or changed.",
        requests.iter().take(ROWS).map(|row| {
            vec![
                row.kind.clone(),
                row.topic.clone().unwrap_or_else(|| "all".to_owned()),
                row.value.as_ref().map_or_else(none, ToString::to_string),
                row.expires_at.as_deref().map_or_else(|| "it is ended".to_owned(), time),
                row.who.clone(),
                row.why.clone().unwrap_or_else(none),
            ]
        }),
        requests.len(),
    )
}

fn groups(groups: &[LetterGroup]) -> Markup {
    table(
        &["letters", "why", "topics", "first", "last", "error"],
        "None.",
        groups.iter().map(|group| {
            vec![
                group.letters.to_string(),
                group.reason.clone(),
                group.topics.join(", "),
                time(&group.first_failed_at),
                time(&group.last_failed_at),
                group.error.clone(),
            ]
        }),
        groups.len(),
    )
}

fn terms(terms: &[Term]) -> Markup {
    table(
        &["epoch", "first settled", "last settled", "settlements"],
        "None has settled anything yet.",
        terms.iter().map(|term| {
            vec![
                term.epoch.to_string(),
                time(&term.first_settled_at),
                time(&term.last_settled_at),
                term.settlements.to_string(),
            ]
        }),
        terms.len(),
    )
}

fn changes(changes: &[Change]) -> Markup {
    table(
        &["when", "level", "what"],
        "Nothing was logged.",
        changes.iter().map(|change| vec![time(&change.at), change.level.to_lowercase(), change.text.clone()]),
        changes.len(),
    )
}

fn table<const N: usize>(
    heading: &[&str; N],
    nothing: &str,
    rows: impl Iterator<Item = Vec<String>>,
    of: usize,
) -> Markup {
    let rows: Vec<Vec<String>> = rows.collect();
    html! {
        @if rows.is_empty() {
            p.quiet { (nothing) }
        } @else {
            div.table {
                table {
                    thead { tr { @for name in heading { th scope="col" { (name) } } } }
                    tbody { @for row in &rows { tr { @for cell in row { td { (cell) } } } } }
                }
            }
            @if rows.len() < of { p.quiet { "and " (of - rows.len()) " more" } }
        }
    }
}

/// Date and time to the second.
fn time(text: &str) -> String {
    text.get(..19).unwrap_or(text).replace('T', " ")
}

fn none() -> String {
    "–".to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Relative luminance of `#rrggbb`, as WCAG 2 defines it.
    fn luminance(colour: &str) -> f64 {
        let part = |at: usize| {
            let value =
                f64::from(u8::from_str_radix(&colour[at..at + 2], 16).expect("two hex digits")) / 255.0;
            if value <= 0.03928 { value / 12.92 } else { ((value + 0.055) / 1.055).powf(2.4) }
        };
        0.2126 * part(1) + 0.7152 * part(3) + 0.0722 * part(5)
    }

    /// The colours that the style gives names to, of one of its two blocks.
    fn colours(block: &str) -> std::collections::HashMap<&str, &str> {
        let block = block.split('}').next().expect("a block");
        let lines = block.split(';').filter_map(|line| line.trim().rsplit("--").next()?.split_once(": "));
        lines.filter(|(_, value)| value.starts_with('#')).collect()
    }

    #[test]
    fn texts_can_be_read_in_light_and_in_dark() {
        let blocks: Vec<_> = STYLE.split(":root {").skip(1).map(colours).collect();
        assert_eq!(blocks.len(), 2, "light and dark");
        for block in blocks {
            for text in ["text", "quiet", "good", "fair", "bad", "link"] {
                for ground in ["ground", "panel"] {
                    let (a, b) = (luminance(block[text]), luminance(block[ground]));
                    let contrast = (a.max(b) + 0.05) / (a.min(b) + 0.05);
                    assert!(contrast >= 4.5, "{text} on {ground}: {contrast:.2}");
                }
            }
        }
    }

    #[test]
    fn what_others_wrote_is_escaped() {
        let hostile = r#"<script>alert("x")</script>&'"#;
        let change =
            Change { at: "2026-01-31T12:00:00Z".to_owned(), level: "WARN", text: hostile.to_owned() };
        let facts = Facts {
            version: "1",
            relay: hostile.to_owned(),
            leads: false,
            circuit_open: false,
            lost: 0,
            postgres_up: false,
            kafka_up: false,
            age_seconds: None,
            trouble: Some(hostile.to_owned()),
            found: None,
            points: Vec::new(),
            changes: vec![change],
        };
        let page = page(&facts);
        assert!(!page.contains("<script"), "{page}");
        assert!(page.contains("&lt;script&gt;alert(&quot;x&quot;)&lt;/script&gt;&amp;"), "{page}");
        assert!(page.contains("Postgres is away") && page.contains("stands by"), "{page}");
    }
}
