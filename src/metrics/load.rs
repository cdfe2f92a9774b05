//! What a relay's `/metrics` say of how busy it is, read back from their text. For commands that ask a relay from outside.

use super::{Label, Operation, StopCause};

/// How busy a relay has been since it started, and how it is now.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Load {
    /// It leads.
    pub leads: bool,
    /// Seconds of CPU of the process.
    pub cpu_seconds: f64,
    /// Seconds that reading pages took, waits for Postgres included.
    pub poll_seconds: f64,
    /// Settlements, and the seconds that they took, several at once included.
    pub settlements: f64,
    /// See `settlements`.
    pub settle_seconds: f64,
    /// Nothing is read now, because too much is with Kafka or not settled.
    pub window_full: bool,
    /// Kafka confirms nothing at all.
    pub circuit_open: bool,
    /// Handed to Kafka or confirmed, and not settled.
    pub in_flight: f64,
}

impl Load {
    /// Reads the text; `None`: it is not that of a relay.
    pub fn read(text: &str) -> Option<Load> {
        let value = |name: &str, label: Option<(&str, &str)>| {
            let series = match label {
                Some((label, value)) => format!("{name}{{{label}=\"{value}\"}} "),
                None => format!("{name} "),
            };
            text.lines().find_map(|line| line.strip_prefix(series.as_str())?.trim().parse::<f64>().ok())
        };
        let database = |part: &str, operation: Operation| {
            value(&format!("outbox_database_seconds_{part}"), Some(("operation", operation.as_str())))
        };
        Some(Load {
            leads: value("outbox_leader", None)? > 0.0,
            cpu_seconds: value("process_cpu_seconds_total", None)?,
            poll_seconds: database("sum", Operation::Poll)?,
            settlements: database("count", Operation::Settle)?,
            settle_seconds: database("sum", Operation::Settle)?,
            window_full: value("outbox_reading_stopped", Some(("cause", StopCause::WindowFull.as_str())))?
                > 0.0,
            circuit_open: value("outbox_circuit_open", None)? > 0.0,
            in_flight: value("outbox_in_flight_messages", None)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::Metrics;
    use super::*;

    #[test]
    fn what_is_exported_is_read_back() {
        let metrics = Metrics::new();
        metrics.database_seconds(Operation::Poll, 0.25);
        metrics.database_seconds(Operation::Settle, 0.5);
        metrics.database_seconds(Operation::Settle, 0.5);
        metrics.set_reading_stopped(StopCause::WindowFull, true);
        metrics.in_flight_messages.set(7.0);
        let load = Load::read(&metrics.gather_text()).expect("all of it is there");
        assert!(!load.leads && load.window_full && !load.circuit_open);
        assert_eq!((load.poll_seconds, load.settlements, load.settle_seconds), (0.25, 2.0, 1.0));
        assert_eq!(load.in_flight, 7.0);
        assert_eq!(Load::read("up 1\n"), None);
    }
}
