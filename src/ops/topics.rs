//! `outbox-relay topics`: what waits, what operators have set; pause, resume, pace.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail};
use serde::Serialize;

use super::carry_out::{carry_out, is_wanted};
use super::print;
use super::table::{Table, dash, maybe_time, time};
use super::talk::say;
use crate::cli::operate::{Change, TopicsCommand};
use crate::store::Session;
use crate::store::ask::{self, Ask};
use crate::store::inspect::{self, RequestRow, TopicRow};

/// What `topics list` shows.
#[derive(Serialize)]
struct Topics {
    topics: Vec<TopicRow>,
    in_effect: Vec<RequestRow>,
}

/// Does what was asked for.
pub async fn run(session: &mut Session, command: TopicsCommand) -> anyhow::Result<ExitCode> {
    match command {
        TopicsCommand::List { show } => {
            let found = Topics {
                topics: inspect::topics(session).await?,
                in_effect: inspect::in_effect(session).await?,
            };
            print::found(show.output, &found, || as_text(&found))?;
            Ok(ExitCode::SUCCESS)
        }
        TopicsCommand::Pause { topic, lasting, change } => {
            let ask = for_a_time(Ask::pause(&topic), lasting);
            carry_out(session, ask, &change, &format!("pause topic {topic}{}", time_of(lasting)), None).await
        }
        TopicsCommand::Resume { topic, change } => {
            carry_out(session, Ask::resume(&topic), &change, &format!("resume topic {topic}"), None).await
        }
        TopicsCommand::Set { topics, quota: Some(quota), change, .. } => {
            set_quota(session, &topics, &quota, &change).await
        }
        TopicsCommand::Set { topics, rate, policy, quota: None, lasting, change } => {
            let (ask, what) = match (rate.as_deref(), policy) {
                (Some("none"), _) => {
                    (Ask::rate(Some(&topics), None), "take the rate limit away from".to_owned())
                }
                (Some(rate), _) => {
                    let Ok(rate) = rate.parse() else {
                        bail!("--rate is a whole number of records a second, or none")
                    };
                    (
                        Ask::rate(Some(&topics), Some(rate)),
                        format!("allow {rate} records a second to each of"),
                    )
                }
                (None, Some(policy)) => {
                    let policy = serde_json::from_str(&policy).context("--policy is no JSON")?;
                    (Ask::policy(&topics, policy), "change the policy of".to_owned())
                }
                (None, None) => bail!("give --rate, --policy or --quota"),
            };
            let ask = for_a_time(ask, lasting);
            carry_out(session, ask, &change, &format!("{what} topics {topics}{}", time_of(lasting)), None)
                .await
        }
    }
}

/// Not the leader's business: the next message of a producer meets it.
async fn set_quota(
    session: &mut Session,
    topic: &str,
    quota: &str,
    change: &Change,
) -> anyhow::Result<ExitCode> {
    let (quota, would) = match (quota, quota.parse::<i64>()) {
        ("none", _) => (None, format!("let any number of messages of topic {topic} wait")),
        (_, Ok(quota)) if quota > 0 => {
            (Some(quota), format!("refuse messages of topic {topic} while {quota} of it wait"))
        }
        _ => bail!("--quota is a whole number of messages, or none"),
    };
    if is_wanted(change, &would)? {
        let noted = ask::set_quota(session, topic, quota, change.why.as_deref()).await?;
        say(&format!("done (noted as request {noted})"))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn for_a_time(ask: Ask, lasting: Option<Duration>) -> Ask {
    match lasting {
        Some(time) => ask.lasting(time),
        None => ask,
    }
}

fn time_of(lasting: Option<Duration>) -> String {
    lasting.map_or(", until somebody ends it".to_owned(), |time| {
        format!(", for {}", humantime::format_duration(time))
    })
}

fn as_text(found: &Topics) -> String {
    let mut table =
        Table::new(["TOPIC", "LANE", "WAITING", "RETRYING", "BEHIND", "SCHEDULED", "DEAD", "OLDEST"]);
    for topic in &found.topics {
        table.row([
            topic.topic.clone(),
            topic.cause.clone().unwrap_or_else(dash),
            topic.waiting.to_string(),
            topic.retrying.to_string(),
            topic.behind.to_string(),
            topic.scheduled.to_string(),
            topic.dead_letters.to_string(),
            maybe_time(topic.oldest.as_ref()),
        ]);
    }
    let mut text = table.render("nothing of any topic waits");
    if !found.in_effect.is_empty() {
        let mut table = Table::new(["REQUEST", "KIND", "TOPICS", "VALUE", "WHO", "SINCE", "UNTIL", "WHY"]);
        for request in &found.in_effect {
            table.row([
                request.id.to_string(),
                request.kind.clone(),
                request.topic.clone().unwrap_or_else(|| "all".to_owned()),
                request.value.as_ref().map_or_else(dash, ToString::to_string),
                request.who.clone(),
                time(&request.asked_at),
                maybe_time(request.expires_at.as_ref()),
                request.why.clone().unwrap_or_else(dash),
            ]);
        }
        text.push('\n');
        text.push_str(&table.render(""));
    }
    text
}
