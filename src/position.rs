//! Where reading stands: pure arithmetic on positions.
//!
//! A position is a snapshot **P** and an id **high**: every row with `id <= high` that is visible in P has been dealt
//! with, none above high has. Order of ids is not order of commits, so P is what finds the rows that were committed
//! late; see `store/sql/poll.sql`. Must not await, log, read a clock or draw random numbers.

/// A place in the stream of outbox rows. The default of nothing is written by the migration, never here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Position {
    /// P, as the text of a `pg_snapshot`.
    pub snapshot: String,
    /// The last id looked at.
    pub high: i64,
    /// Set while a set of late rows that is too large for one poll is being paged.
    pub late: Option<Late>,
}

/// Progress through a large set of late rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Late {
    /// The snapshot that found the set; it becomes P when the set is through.
    pub snapshot: String,
    /// Late rows up to this id have been dealt with.
    pub after: i64,
}

/// What one poll saw.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// The poll's own snapshot.
    pub snapshot: String,
    /// Id of the last late row returned, and whether the page had no room for more of them.
    pub last_late: Option<i64>,
    /// The late rows filled the page.
    pub late_full: bool,
    /// Id of the last fresh row returned.
    pub last_fresh: Option<i64>,
}

impl Position {
    /// The position once every row of the poll has been dealt with.
    pub fn after_poll(&self, seen: &Seen) -> Position {
        match seen.last_late {
            // P and high stay: what the page had no room for is still late.
            Some(after) if seen.late_full => Position {
                snapshot: self.snapshot.clone(),
                high: self.high,
                late: Some(Late { snapshot: seen.snapshot.clone(), after }),
            },
            _ => Position {
                snapshot: seen.snapshot.clone(),
                high: seen.last_fresh.unwrap_or(self.high).max(self.high),
                late: None,
            },
        }
    }

    /// The position where a late set begins that is too large for one poll: `snapshot` has found it, `first` is its lowest id.
    pub fn at_late_set(&self, snapshot: String, first: i64) -> Position {
        Position { late: Some(Late { snapshot, after: first - 1 }), ..self.clone() }
    }

    /// The position once a page of late rows that looked at ids up to `looked_at` has been dealt with.
    pub fn after_late_page(&self, looked_at: i64) -> Position {
        match &self.late {
            Some(late) if looked_at < self.high => {
                Position { late: Some(Late { after: looked_at, ..late.clone() }), ..self.clone() }
            }
            Some(late) => Position { snapshot: late.snapshot.clone(), high: self.high, late: None },
            None => self.clone(),
        }
    }

    /// Ids that have not been looked at in the late set; none where no such set is being paged.
    pub fn left_of_late(&self) -> i64 {
        self.late.as_ref().map_or(0, |late| self.high - late.after)
    }

    /// Whether it lies behind the other one, both of one server: its snapshot is older, or it has looked at fewer ids. Snapshots of
    /// a server are in one order; of two with the same end the older one has more transactions in progress.
    pub fn is_behind(&self, other: &Position) -> bool {
        let age = |position: &Position| {
            let in_progress = position
                .snapshot
                .split(':')
                .nth(2)
                .map_or(0, |xips| xips.split(',').filter(|x| !x.is_empty()).count());
            (position.xmax(), std::cmp::Reverse(in_progress))
        };
        self.high < other.high || age(self) < age(other)
    }

    /// The first transaction that P has not seen, from its text `xmin:xmax:xip,…`.
    pub fn xmax(&self) -> Option<u64> {
        self.snapshot.split(':').nth(1)?.parse().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(snapshot: &str, high: i64, late: Option<(&str, i64)>) -> Position {
        Position {
            snapshot: snapshot.into(),
            high,
            late: late.map(|(s, after)| Late { snapshot: s.into(), after }),
        }
    }

    #[track_caller]
    fn poll(late: Option<i64>, late_full: bool, fresh: Option<i64>, expected: Position) {
        let seen = Seen { snapshot: "9:9:".into(), last_late: late, late_full, last_fresh: fresh };
        assert_eq!(at("5:7:5", 100, None).after_poll(&seen), expected);
    }

    #[test]
    fn a_poll_moves_the_snapshot_and_the_last_id_looked_at() {
        poll(None, false, None, at("9:9:", 100, None));
        poll(None, false, Some(140), at("9:9:", 140, None));
        poll(Some(90), false, None, at("9:9:", 100, None));
        poll(Some(90), false, Some(101), at("9:9:", 101, None));
    }

    #[test]
    fn too_many_late_rows_keep_the_position_and_are_paged() {
        poll(Some(60), true, None, at("5:7:5", 100, Some(("9:9:", 60))));
        let paging = at("5:7:5", 100, Some(("9:9:", 60)));
        assert_eq!(at("5:7:5", 100, None).at_late_set("9:9:".into(), 61), paging);
        assert_eq!(paging.after_late_page(80), at("5:7:5", 100, Some(("9:9:", 80))));
        assert_eq!(paging.after_late_page(80).left_of_late(), 20);
        assert_eq!(paging.after_late_page(100), at("9:9:", 100, None));
        assert_eq!(paging.after_late_page(100).left_of_late(), 0);
    }

    #[test]
    fn a_position_is_behind_with_an_older_snapshot_or_a_lower_id() {
        let here = at("5:9:5,7", 100, None);
        for (other, expected) in [
            (at("5:9:5,7", 100, None), false),
            (at("5:9:5,7", 101, None), true),
            (at("5:10:5,7", 90, None), true),
            (at("7:9:7", 100, None), true),
            (at("9:9:", 100, None), true),
            (at("5:9:5,6,7", 100, None), false),
            (at("5:8:5,7", 100, None), false),
        ] {
            assert_eq!(here.is_behind(&other), expected, "{other:?}");
        }
    }

    #[test]
    fn xmax_is_the_second_number() {
        assert_eq!(at("5:7:5,6", 0, None).xmax(), Some(7));
        assert_eq!(at("nonsense", 0, None).xmax(), None);
    }
}
