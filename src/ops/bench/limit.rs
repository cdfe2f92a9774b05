//! What limits a rate: judged by what the relay's own metrics say while it is too much for it.
//!
//! The judgement (`Seen::limit`) is pure. A relay whose metrics are out of reach limits by what nobody knows.

use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::metrics::Load;
use crate::ops::http;

/// Between two looks.
const LOOK: Duration = Duration::from_millis(250);
/// A loop that works so much of the time has no time left.
const BUSY: f64 = 0.8;
/// Of one core: the sender is one task. The metrics count whole seconds.
const CORE: f64 = 0.8;
/// Of all cores of this machine.
const MACHINE: f64 = 0.95;

/// Where the relay's metrics are.
#[derive(Debug, Clone)]
pub struct Watch {
    address: String,
    /// The relay runs on this machine.
    here: bool,
}

/// Metrics that are being followed.
pub struct Watching {
    end: CancellationToken,
    looks: AbortOnDropHandle<Seen>,
}

/// What was seen during a step.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Seen {
    /// Shares of the time; `None`: the metrics were out of reach.
    pub relay: Option<Shares>,
    /// Busy share of all cores of this machine, if the relay runs on it.
    pub machine: Option<f64>,
}

/// How a relay spent the time.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Shares {
    /// Cores.
    pub cpu: f64,
    /// Reading pages.
    pub reading: f64,
    /// Writing settlements.
    pub marking: f64,
    /// The window was full.
    pub window_full: f64,
    /// Nothing was confirmed at all.
    pub circuit_open: f64,
}

impl Watch {
    /// Metrics at this address.
    pub fn new(address: String, here: bool) -> Watch {
        Watch { address, here }
    }

    /// Follows them from now on.
    pub fn begin(&self) -> Watching {
        let end = CancellationToken::new();
        let looks = tokio::spawn(look(self.clone(), end.clone()));
        Watching { end, looks: AbortOnDropHandle::new(looks) }
    }
}

impl Watching {
    /// What was seen until now.
    pub async fn end(self) -> Seen {
        self.end.cancel();
        self.looks.await.unwrap_or_default()
    }
}

async fn look(watch: Watch, end: CancellationToken) -> Seen {
    let machine_before = watch.here.then(cpu_times).flatten();
    let mut loads: Vec<(Instant, Load)> = Vec::new();
    loop {
        let text = http::get(&watch.address, "/metrics").await.ok();
        // A standby's metrics say nothing.
        loads.extend(
            text.as_deref().and_then(Load::read).filter(|load| load.leads).map(|load| (Instant::now(), load)),
        );
        if end.is_cancelled() {
            break;
        }
        tokio::select! {
            () = tokio::time::sleep(LOOK) => {}
            () = end.cancelled() => {}
        }
    }
    let machine = watch.here.then(cpu_times).flatten();
    let machine = machine_before.zip(machine).map(|((busy, all), (busy_after, all_after))| {
        (busy_after - busy) as f64 / (all_after - all).max(1) as f64
    });
    Seen { relay: shares(&loads), machine }
}

fn shares(loads: &[(Instant, Load)]) -> Option<Shares> {
    let ((began, first), (ended, last)) = (loads.first()?, loads.last()?);
    let seconds = (*ended - *began).as_secs_f64();
    if seconds <= 0.0 {
        return None;
    }
    let part = |is: &dyn Fn(&Load) -> bool| {
        loads.iter().filter(|(_, load)| is(load)).count() as f64 / loads.len() as f64
    };
    Some(Shares {
        cpu: (last.cpu_seconds - first.cpu_seconds) / seconds,
        reading: (last.poll_seconds - first.poll_seconds) / seconds,
        marking: (last.settle_seconds - first.settle_seconds) / seconds,
        window_full: part(&|load| load.window_full),
        circuit_open: part(&|load| load.circuit_open),
    })
}

impl Seen {
    /// What a rate that was too much was limited by.
    pub fn limit(&self) -> &'static str {
        let Some(relay) = self.relay else { return "unknown" };
        match relay {
            Shares { circuit_open, .. } if circuit_open > 0.5 => "kafka",
            Shares { marking, .. } if marking >= BUSY => "marking",
            Shares { cpu, .. } if cpu >= CORE || self.machine.is_some_and(|busy| busy >= MACHINE) => "cpu",
            Shares { window_full, .. } if window_full > 0.5 => "kafka",
            Shares { reading, .. } if reading >= BUSY => "reading",
            _ => "unknown",
        }
    }
}

/// Ticks that the cores of this machine were busy, and all of them.
fn cpu_times() -> Option<(u64, u64)> {
    let stat = std::fs::read_to_string("/proc/stat").ok()?;
    let numbers: Vec<u64> =
        stat.lines().next()?.split_whitespace().skip(1).filter_map(|n| n.parse().ok()).collect();
    // user, nice, system, idle, iowait, irq, softirq, steal; what follows is counted in user already.
    let all: u64 = numbers.iter().take(8).sum();
    let idle = numbers.get(3)? + numbers.get(4)?;
    Some((all - idle, all))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_limit_is_told_by_its_signs() {
        let check = |relay: Shares, machine: Option<f64>, expected: &str| {
            assert_eq!(Seen { relay: Some(relay), machine }.limit(), expected, "{relay:?}");
        };
        let calm = Shares { cpu: 0.3, reading: 0.4, marking: 0.3, ..Shares::default() };
        check(calm, Some(0.5), "unknown");
        check(Shares { marking: 0.9, window_full: 1.0, ..calm }, None, "marking");
        check(Shares { cpu: 1.1, window_full: 1.0, ..calm }, None, "cpu");
        check(calm, Some(0.99), "cpu");
        check(Shares { window_full: 0.8, ..calm }, Some(0.5), "kafka");
        check(Shares { circuit_open: 0.8, ..calm }, Some(0.99), "kafka");
        check(Shares { reading: 0.95, ..calm }, None, "reading");
        assert_eq!(Seen::default().limit(), "unknown");
    }

    #[test]
    fn shares_come_from_the_first_and_the_last_look() {
        let load = |cpu_seconds, window_full| Load {
            leads: true,
            cpu_seconds,
            poll_seconds: cpu_seconds / 2.0,
            settlements: 0.0,
            settle_seconds: cpu_seconds / 4.0,
            window_full,
            circuit_open: false,
            in_flight: 0.0,
        };
        let began = Instant::now();
        let at = |seconds| began + Duration::from_secs(seconds);
        let seen =
            shares(&[(at(0), load(10.0, false)), (at(1), load(11.0, true)), (at(2), load(12.0, true))]);
        let expected =
            Shares { cpu: 1.0, reading: 0.5, marking: 0.25, window_full: 2.0 / 3.0, circuit_open: 0.0 };
        assert_eq!(seen, Some(expected));
        assert_eq!(shares(&[(began, load(1.0, true))]), None);
    }
}
