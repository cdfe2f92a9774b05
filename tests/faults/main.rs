//! The fault harness: `make faults` plays every scenario once, `make soak` plays them in random order for as long as it is told.
//!
//! Each scenario writes, breaks something, heals it, reads every topic back from its start and has the checker judge. It ends with
//! a table on stdout and `target/reliability.json`; exit code 1 when a promise was broken. `--seed N` repeats choices, names of
//! scenarios play only those, `<scenario>+<bug>` with a bug seeded into the relays, `--soak 1h` goes on.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "the report is what this program is for")]

mod checker;
mod clock;
mod cluster;
mod disk;
mod evidence;
mod play;
mod pooler;
mod proxy;
mod report;
mod scenarios;
mod scene;
mod standby;
#[path = "../it/support/mod.rs"]
mod support;
mod watch;
mod writers;

use std::cell::RefCell;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

use crate::cluster::Cluster;
use crate::play::Played;
use crate::report::{Line, Report};
use crate::scenarios::Scenario;

/// Messages of a scenario at least.
const MESSAGES: usize = 5000;
const MESSAGES_OF_A_SOAK: usize = 20_000;

struct Options {
    seed: u64,
    soak: Option<Duration>,
    names: Vec<String>,
}

fn options() -> Options {
    let mut options = Options { seed: rand::random(), soak: None, names: Vec::new() };
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut value = |what: &str| arguments.next().unwrap_or_else(|| panic!("{what} is missing"));
        match argument.as_str() {
            "--seed" => options.seed = value("a seed").parse().expect("a seed is a number below 2^64"),
            "--soak" => {
                options.soak =
                    Some(humantime::parse_duration(&value("a duration")).expect("a duration such as 1h"));
            }
            name => options.names.push(name.to_owned()),
        }
    }
    options
}

fn main() -> ExitCode {
    let options = options();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(4).enable_all().build();
    let report = runtime.expect("a runtime").block_on(run(&options));
    report.print();
    // Of a relay with a bug it says nothing.
    if !options.names.iter().any(|name| name.contains('+')) {
        report.write();
    }
    if report.is_clean() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Those of these names, in this order; if there are none, all but those by hand.
fn wanted(names: &[String]) -> Vec<Scenario> {
    let find = |name: &String| {
        let (name, bug) = name.split_once('+').map_or((&**name, None), |(name, bug)| (name, Some(bug)));
        let mut all = scenarios::all();
        let at = all.iter().position(|scenario| scenario.name == name);
        let at = at.unwrap_or_else(|| {
            let names: Vec<&str> = all.iter().map(|scenario| scenario.name).collect();
            panic!("there is no scenario {name}; there are {names:?}")
        });
        Scenario { bug: bug.map(str::to_owned), ..all.swap_remove(at) }
    };
    if names.is_empty() {
        scenarios::all().into_iter().filter(|scenario| !scenario.by_hand).collect()
    } else {
        names.iter().map(find).collect()
    }
}

async fn run(options: &Options) -> Report {
    eprintln!("repeat this run with --seed {}", options.seed);
    let wanted = wanted(&options.names);
    let cluster = Cluster::start().await;
    let report = RefCell::new(Report::new(options.seed));
    match options.soak {
        None => {
            // A bug has to be found on this very seed; other scenarios get one each.
            let seed = |(number, scenario): (usize, &_)| match scenario {
                Scenario { bug: Some(_), .. } => options.seed,
                Scenario { bug: None, .. } => options.seed.wrapping_add(number as u64),
            };
            let plan =
                wanted.iter().enumerate().map(|(number, scenario)| (scenario, seed((number, scenario))));
            let (apart, others): (Vec<_>, Vec<_>) = plan.partition(|(scenario, _)| scenario.apart);
            play(&cluster, others.into_iter(), MESSAGES, &report).await;
            // The two take turns in beginning the next one.
            let apart = RefCell::new(apart.into_iter());
            let next = || std::iter::from_fn(|| apart.borrow_mut().next());
            tokio::join!(
                play(&cluster, next(), MESSAGES, &report),
                play(&cluster, next(), MESSAGES, &report)
            );
        }
        Some(length) => soak(&cluster, &wanted, length, options.names.is_empty(), &report).await,
    }
    report.into_inner()
}

/// Scenarios in random order. If it may be any of them, those that go on for a long time come first, with a third of it each.
async fn soak(cluster: &Cluster, wanted: &[Scenario], length: Duration, any: bool, report: &RefCell<Report>) {
    let mut random = rand::rngs::StdRng::seed_from_u64(report.borrow().seed());
    let began = Instant::now();
    let mut long = Vec::new();
    if any {
        for scenario in scenarios::all().into_iter().filter(|scenario| scenario.by_hand) {
            let share = if scenario.watches { length / 3 } else { scenario.length.min(length / 3) };
            long.push(Scenario { length: share, ..scenario });
        }
    }
    let mut first = long.iter();
    let plan = std::iter::from_fn(|| {
        let next = first.next().or_else(|| wanted.choose(&mut random).filter(|_| began.elapsed() < length));
        next.map(|scenario| (scenario, random.random()))
    });
    play(cluster, plan, MESSAGES_OF_A_SOAK, report).await;
}

/// Plays one scenario after the other. While one is being judged the next one begins, which breaks nothing yet.
async fn play<'c>(
    cluster: &'c Cluster,
    mut plan: impl Iterator<Item = (&'c Scenario, u64)>,
    messages: usize,
    report: &RefCell<Report>,
) {
    let mut next = plan.next();
    let mut begun = match next {
        Some((scenario, seed)) => Some(play::begin(cluster, scenario, seed, messages).await),
        None => None,
    };
    while let (Some((scenario, seed)), Some(playing)) = (next, begun.take()) {
        let began = Instant::now();
        let over = playing.go_on().await;
        next = plan.next();
        let beginning = async {
            match next {
                Some((scenario, seed)) => Some(play::begin(cluster, scenario, seed, messages).await),
                None => None,
            }
        };
        let played;
        (played, begun) = tokio::join!(over.judged(), beginning);
        let line = Line::of(scenario, seed, &played);
        eprintln!("{line} {:.1} s", began.elapsed().as_secs_f64());
        if !line.holds() {
            eprintln!("{}", played.verdict);
        }
        if !line.holds() && scenario.bug.is_none() {
            keep(scenario.name, &line, &played);
        }
        report.borrow_mut().add(line);
    }
}

/// Writes what a broken scenario leaves for those who look into it.
fn keep(name: &str, line: &Line, played: &Played) {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/faults").join(name);
    let kept = std::fs::create_dir_all(&directory).and_then(|()| {
        let mut findings = format!("{line}\nseed {}\n{}", line.seed(), played.verdict);
        for interval in &played.verdict.intervals {
            let (from, to) = (interval.from as f64 / 1e6, interval.to as f64 / 1e6);
            findings.push_str(&format!("broken from {from:.3} s to {to:.3} s: {}\n", interval.faults));
        }
        std::fs::write(directory.join("findings.txt"), findings)?;
        for (number, log) in played.logs.iter().enumerate() {
            std::fs::write(directory.join(format!("relay_{number}.log")), log.join("\n"))?;
        }
        Ok(())
    });
    match kept {
        Ok(()) => eprintln!("the relays' logs and all findings of {name} are in {}", directory.display()),
        Err(error) => eprintln!("the logs of {name} could not be kept in {}: {error}", directory.display()),
    }
}
