//! The sender's side entrance: due rows, and rows that are to become deferred ones.

use std::sync::Arc;

use super::{DueBatch, Sender};
use crate::relay::batch::Fate;
use crate::relay::{Decided, Entering, Entrance, Origin};
use crate::store::deferred::DueRow;
use crate::store::settle::{Deferral, Reason, ReplayPage};

impl Sender<'_> {
    pub(super) fn take_due(&mut self, mut due: DueBatch) {
        self.next_no += 1;
        due.no = self.next_no;
        let late: Vec<usize> = (0..due.rows.len()).filter(|index| due.rows[*index].waits).collect();
        // They are due, but an earlier row of their key is not through.
        self.due = Some(due);
        self.put_behind(late);
    }

    /// Due rows get behind an earlier one of their key.
    pub(super) fn put_behind(&mut self, late: Vec<usize>) {
        let Some(due) = self.due.as_mut() else { return };
        for index in late {
            let DueRow { row, reason, attempts, tries, .. } = &due.rows[index];
            if *reason == Reason::Scheduled {
                self.topics.get(&row.topic).waiting += 1;
                self.keys.wait(&row.topic, row.key.as_deref(), 1);
                self.deferred.send_modify(|rows| {
                    rows.scheduled = rows.scheduled.saturating_sub(1);
                    rows.waiting += 1;
                });
            }
            let behind = Deferral { attempts: *attempts, tries: *tries, ..Deferral::behind(row.id) };
            due.fates[index] = Fate::PutOff(Box::new(behind));
        }
    }

    /// Rows from elsewhere become deferred rows; from now on their keys wait for them.
    pub(super) fn let_in(&mut self, entrance: Entrance) {
        let entering = entrance.rows.len();
        // They enter: nothing leaves with this settlement.
        let mut decided = Decided { settled: Some(entrance.settled), ..Decided::default() };
        decided.outcome.rare.request = entrance.request;
        if let Origin::Replayed { elsewhere } = entrance.origin {
            let to = entrance.rows.first().filter(|_| elsewhere).map(|row| Arc::clone(&row.topic));
            decided.outcome.rare.replay = Some(ReplayPage { ids: Vec::new(), to });
        }
        for row in entrance.rows {
            if entrance.origin != Origin::Found {
                // Whoever sends letters again has repaired something first.
                self.topics.may_have_changed(&row.topic);
            }
            let topic = self.topics.get(&row.topic);
            topic.waiting += 1;
            let passable = !topic.blocks();
            if !passable {
                self.keys.wait(&row.topic, row.key.as_deref(), 1);
            }
            let deferral = Deferral {
                reason: Reason::Retry,
                delay_ms: Some(0),
                class: Some("unaccounted"),
                error: Some("no settlement accounted for it".to_owned()),
                passable,
                ..Deferral::behind(row.id)
            };
            decided.entering.push(Entering::of(&deferral, row.topic, row.key));
            match entrance.origin {
                Origin::Requeued => {
                    decided.outcome.rare.requeued.push(row.id);
                    decided.outcome.rare.passable.extend(passable.then_some(row.id));
                }
                Origin::Replayed { .. } => {
                    decided.outcome.rare.replay.get_or_insert_default().ids.push(row.id);
                    decided.outcome.rare.passable.extend(passable.then_some(row.id));
                }
                Origin::Found => decided.outcome.deferred.push(deferral),
            }
        }
        self.deferred.send_modify(|rows| rows.waiting += entering as u64);
        self.extra.push_back(decided);
    }
}
