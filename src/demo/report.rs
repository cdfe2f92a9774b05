//! The audit in words: one fact a line, name first, so that both people and scripts can read it. Pure.

use super::audit::Findings;
use super::ground::Places;
use super::play::Played;
use super::relays::LEASE_TTL;

/// The audit as it is printed, and whether everything held.
pub fn report(findings: &Findings, played: &Played, places: &Places) -> (String, bool) {
    let Findings { committed, delivered, lost, phantoms, altered, out_of_order, duplicates, customers } =
        *findings;
    let holds = findings.hold(played.leases_won) && (!played.killed || played.takeover.is_some());
    let explained = match (duplicates, played.leases_won) {
        (0, _) => "",
        (_, 0 | 1) => "  nothing explains them: nobody took over",
        _ => "  from around the takeover, each with the event id of its first copy",
    };
    let takeover = match (played.takeover, played.killed) {
        (Some(after), _) => {
            let (after, ttl) = (after.as_secs_f64(), LEASE_TTL.as_secs());
            format!("{after:.2} s  from kill -9 of the leader to the next one; the lease lasts {ttl} s")
        }
        (None, true) => "none  although the leader was killed".to_owned(),
        (None, false) => "none  nobody was killed before the end".to_owned(),
    };
    let order = match out_of_order {
        0 => format!("yes  for each of {customers} customers, by first appearance"),
        wrong => format!("no  {wrong} records came after a later one of their customer"),
    };
    let facts = [
        ("committed", format!("{committed}  orders in the table")),
        ("delivered", format!("{delivered}  of them in the topic")),
        ("lost", lost.to_string()),
        (
            "rolled back",
            format!("{}  orders, after their outbox row was written", played.figures.rolled_back),
        ),
        ("rolled back yet delivered", phantoms.to_string()),
        ("altered", altered.to_string()),
        ("order kept", order),
        ("duplicates", format!("{duplicates}{explained}")),
        ("takeover", takeover),
        ("postgres", places.postgres.clone()),
        ("kafka", places.kafka.clone()),
        ("verdict", if holds { "every promise held" } else { "A PROMISE WAS BROKEN" }.to_owned()),
    ];
    let line = |(name, fact): (&str, String)| format!("{name:<26} {}\n", fact.replacen("  ", "   ", 1));
    (facts.map(line).concat(), holds)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::demo::tally::Figures;

    fn check(findings: Findings, takeover: Option<Duration>, leases_won: usize) -> (String, bool) {
        let figures = Figures { rolled_back: 7, ..Figures::default() };
        let played = Played { seen: Vec::new(), figures, takeover, killed: true, leases_won };
        let [shop_url, relay_url, brokers, topic, postgres, kafka] =
            ["", "", "", "", "P", "K"].map(str::to_owned);
        report(&findings, &played, &Places { shop_url, relay_url, brokers, topic, postgres, kafka })
    }

    const GOOD: Findings = Findings {
        committed: 10,
        delivered: 10,
        lost: 0,
        phantoms: 0,
        altered: 0,
        out_of_order: 0,
        duplicates: 2,
        customers: 3,
    };

    #[test]
    fn a_kept_promise_reads_like_one() {
        let (text, holds) = check(GOOD, Some(Duration::from_millis(2_340)), 2);
        assert!(holds, "{text}");
        for part in
            ["committed                  10", "lost                       0\n", "2.34 s", "promise held"]
        {
            assert!(text.contains(part), "{part} is missing in\n{text}");
        }
    }

    #[test]
    fn whatever_is_broken_is_said() {
        for (findings, part) in [
            (Findings { lost: 1, delivered: 9, ..GOOD }, "lost                       1"),
            (Findings { phantoms: 1, ..GOOD }, "rolled back yet delivered  1"),
            (Findings { out_of_order: 3, ..GOOD }, "order kept                 no   3 records"),
        ] {
            let (text, holds) = check(findings, Some(Duration::from_secs(2)), 2);
            assert!(!holds && text.contains(part) && text.contains("BROKEN"), "{text}");
        }
        assert!(!check(GOOD, Some(Duration::from_secs(2)), 1).1, "duplicates without a takeover");
        assert!(!check(GOOD, None, 2).1, "a killed leader that nobody replaced");
    }
}
