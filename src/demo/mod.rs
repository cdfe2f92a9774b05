//! `outbox-relay demo`: the newcomer's first minute.
//!
//! An order service writes to a Postgres, two relays publish to a Kafka, the leading one is killed half-way, a consumer
//! reads the topic, and an audit compares the table with what was read. Whatever happens, what the demo has made is taken
//! away at the end. stdout gets the audit, stderr the rest.
//!
//! Read `play` for what happens when, `shop` for how a service writes, `audit` for what is promised; `ground` owns the
//! servers.

mod audit;
mod ground;
mod interrupt;
mod play;
mod reader;
mod relays;
mod report;
mod shop;
mod tally;
mod view;

use std::process::ExitCode;

use ground::Ground;
use interrupt::Interrupt;
use view::say;

use crate::cli::DemoOptions;
use crate::ops::print;

const PLAN: &str = "a service writes orders, two relays publish them, the leading relay is killed half-way";

const NEXT: [&str; 2] = [
    "next: set DATABASE_URL and KAFKA_BROKERS, then `outbox-relay migrate` and `outbox-relay run`;",
    "      README says how to write to the outbox from any language",
];

/// Runs the demo. The exit code is 0 only if every promise held.
pub async fn run(options: DemoOptions) -> anyhow::Result<ExitCode> {
    let interrupt = Interrupt::watch()?;
    let mut ground = Ground::default();
    say(PLAN);
    let audited = perform(&mut ground, options, interrupt).await;
    ground.clear().await;
    let (text, holds) = audited?;
    print::data(&text)?;
    for line in NEXT {
        say(line);
    }
    Ok(if holds { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Everything between nothing and the audit.
async fn perform(
    ground: &mut Ground,
    options: DemoOptions,
    interrupt: Interrupt,
) -> anyhow::Result<(String, bool)> {
    let places = ground.prepare(&options, &interrupt).await?;
    // In a task of its own: if it panics, the ground is cleared nevertheless.
    let played = tokio::spawn(play::play(places.clone(), options, interrupt)).await??;
    let orders = ground.database().orders().await?;
    Ok(report::report(&audit::audit(&orders, &played.seen), &played, &places))
}
