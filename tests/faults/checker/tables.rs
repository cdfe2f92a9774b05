//! The database says what happened: every mark has its record where the receipt says, whatever was passed has a mark, and nothing
//! waits for ever.

use super::history::{Record, Row, State};
use super::index::{Index, RowNo};
use super::verdict::{Finding, Report};

/// Reports marks without records, rows without marks, and rows that wait although everything is well.
pub fn check(index: &Index<'_>, report: &mut Report) {
    let history = index.history;
    let healed = history.faults.iter().map(|fault| fault.to).max();
    let mut too_early = 0_u64;
    for (no, row) in index.committed() {
        match index.state(row) {
            Some(state @ (State::Pending | State::Deferred)) => {
                let waited = history.table_at - healed.map_or(row.at, |healed| healed.max(row.at));
                if waited < history.bounds.pending_after {
                    too_early += 1;
                    continue;
                }
                let (id, event) = (row.id, row.event);
                report.add(Finding::PendingLongAfterHeal { id, event, state, waited });
            }
            Some(state @ (State::Published { .. } | State::Gone)) => {
                check_receipt(index, no, row, state, report);
            }
            Some(State::PassedBy) => {
                let found = index.first[no].map(Into::into);
                report.add(Finding::Unaccounted { id: row.id, event: row.event, found });
            }
            Some(State::Dead | State::Dropped | State::Expired) | None => {}
        }
    }
    if too_early > 0 {
        report.unsound(format!(
            "the tables were read too early to say what becomes of {too_early} waiting rows"
        ));
    }
}

fn check_receipt(index: &Index<'_>, no: RowNo, row: &Row, state: State, report: &mut Report) {
    let leads_to = |record: &Record| match state {
        State::Published { partition, offset } => {
            record.partition == partition && offset.is_none_or(|offset| record.offset == offset)
        }
        _ => true,
    };
    if !index.records(no).any(leads_to) {
        let found = index.first[no].map(Into::into);
        report.add(Finding::PublishedWithoutRecord { id: row.id, event: row.event, state, found });
    }
}
