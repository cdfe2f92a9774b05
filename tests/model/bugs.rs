//! What a schedule is made of, and the bugs that can be seeded into it.
//!
//! A bug is a switch in the model, never in the relay: it shows that the checks at the end of a schedule bite.

use crate::dice::Dice;

/// Milliseconds of the virtual clock.
pub type Ms = u64;

/// A mistake that the model makes on purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bug {
    /// A row counts as published once it is handed over.
    MarksBeforeConfirm,
    /// A settlement does not look at the epoch or at whose token it is.
    NoFencing,
    /// The last row of a page is not sent.
    DropsLastRow,
    /// Due rows of one key do not wait for each other.
    IgnoresKeyOrderOnRetry,
    /// A key is blocked only by rows that are settled as deferred.
    UnblocksBeforeUnsettled,
    /// A record that was refused is taken for done.
    SwallowsError,
    /// A record of which nobody knows is taken for written.
    TimeoutIsSuccess,
    /// Rows that became visible below `high` are not looked for.
    ForgetsLateRows,
    /// The incarnation token is not looked at.
    KeepsMemory,
    /// Of late rows only those are looked for whose transactions the position's snapshot names.
    WatchesOnlyInProgress,
    /// What a crash could still undo is published.
    NoFlushBarrier,
    /// The flush barrier asks a server that may have forgotten everything since the poll.
    BlindFlushBarrier,
    /// A lane is closed without regard to how far main has been settled.
    LaneClosesByItself,
    /// After a takeover a lane is read as of a position of main that is older than its own.
    LaneGoesBack,
    /// A lane begins where main stands once it has passed a late set that the lane is to read.
    LaneMissesLateSet,
    /// Pages that are offered in part fill the window, and none of them can be completed.
    PartialPagesFillWindow,
    /// A row with a time of its own stays as it is behind one that failed, and nobody looks at its time again.
    LeavesDueRowBehind,
    /// Keyed rows are pipelined into partitions in which the broker does not know the producer.
    NoFirstGate,
}

impl Bug {
    /// All of them.
    pub const ALL: [Bug; 18] = [
        Bug::MarksBeforeConfirm,
        Bug::NoFencing,
        Bug::DropsLastRow,
        Bug::IgnoresKeyOrderOnRetry,
        Bug::UnblocksBeforeUnsettled,
        Bug::SwallowsError,
        Bug::TimeoutIsSuccess,
        Bug::ForgetsLateRows,
        Bug::KeepsMemory,
        Bug::WatchesOnlyInProgress,
        Bug::NoFlushBarrier,
        Bug::BlindFlushBarrier,
        Bug::LaneClosesByItself,
        Bug::LaneGoesBack,
        Bug::LaneMissesLateSet,
        Bug::PartialPagesFillWindow,
        Bug::LeavesDueRowBehind,
        Bug::NoFirstGate,
    ];
}

/// The size and the climate of one schedule.
#[derive(Debug, Clone)]
pub struct Plan {
    pub bug: Option<Bug>,
    /// Steps before everything heals.
    pub steps: usize,
    pub relays: usize,
    pub writers: usize,
    /// Transactions that writers begin.
    pub transactions: usize,
    pub page_rows: usize,
    pub window_rows: usize,
    /// Heads of one batch of due rows, and followers of each.
    pub due_heads: usize,
    pub due_followers: usize,
    /// Records in one protocol batch at most.
    pub batch: usize,
    /// Spent attempts until a row is dead.
    pub attempts: u32,
    pub ttl: Ms,
    /// Ids that one WAL record of the sequence covers.
    pub log_ahead: i64,
    /// Faults in a thousand steps.
    pub faults: u64,
    /// The server prefers to crash while something visible is not on disk.
    pub worst_crashes: bool,
    /// Connections outlive a crash of the server.
    pub pooler: bool,
    /// Rows in a hundred that Kafka refuses, at least for a while.
    pub refused: u64,
    /// Commits in a hundred that do not wait for the disk.
    pub asynchronous: u64,
    /// Transactions in a hundred that stay open for long.
    pub lingering: u64,
    /// Rows in a hundred that are not to be sent before a time.
    pub scheduled: u64,
    /// Topics get lanes; otherwise all lanes are taken, and rows of sick topics are put off one by one.
    pub lanes: bool,
    /// How often in a hundred looks around a topic is read on its own that is well.
    pub laning: u64,
    /// A broker names the culprit of a refused batch.
    pub names_culprits: bool,
    /// The producer compresses: a size above the limit is only a suspicion.
    pub compresses: bool,
}

impl Plan {
    /// What this seed makes of it.
    pub fn draw(bug: Option<Bug>, dice: &mut Dice) -> Plan {
        let page_rows = dice.between(2, 8) as usize;
        let plan = Plan {
            bug,
            steps: dice.between(2000, 8000) as usize,
            relays: dice.between(2, 3) as usize,
            writers: dice.between(2, 6) as usize,
            transactions: dice.between(20, 120) as usize,
            page_rows,
            window_rows: page_rows + dice.below(16),
            due_heads: dice.between(2, 5) as usize,
            due_followers: dice.between(1, 4) as usize,
            batch: dice.between(1, 5) as usize,
            attempts: dice.between(2, 4) as u32,
            ttl: dice.between(500, 1500),
            log_ahead: dice.pick(&[1, 4, 32]),
            faults: dice.pick(&[0, 2, 5, 10, 20, 30]),
            worst_crashes: dice.percent(40),
            pooler: dice.percent(50),
            refused: dice.pick(&[0, 5, 15, 30]),
            asynchronous: dice.pick(&[0, 50, 100]),
            lingering: dice.pick(&[0, 10, 30]),
            scheduled: dice.pick(&[0, 0, 10]),
            lanes: dice.percent(60),
            laning: dice.pick(&[2, 10, 60]),
            names_culprits: dice.percent(50),
            compresses: dice.percent(50),
        };
        match bug {
            // The climate in which it hurts; in any other it takes thousands of seeds.
            Some(Bug::LaneClosesByItself) => {
                let faults = plan.faults.max(5);
                Plan { lanes: true, laning: 60, page_rows: 3, window_rows: 60, batch: 1, faults, ..plan }
            }
            Some(Bug::LaneGoesBack) => {
                Plan { lanes: true, laning: 60, faults: plan.faults.max(10), asynchronous: 0, ..plan }
            }
            Some(Bug::LaneMissesLateSet) => Plan { lanes: true, laning: 60, page_rows: 2, ..plan },
            Some(Bug::BlindFlushBarrier) => Plan {
                worst_crashes: true,
                pooler: true,
                asynchronous: 100,
                faults: plan.faults.max(2),
                ..plan
            },
            _ => plan,
        }
    }

    /// The bug is seeded.
    pub fn has(&self, bug: Bug) -> bool {
        self.bug == Some(bug)
    }

    /// Records that one takeover, crash or end of a producer may repeat: all that is handed over and not settled.
    pub fn window(&self) -> usize {
        // The oldest page may always be completed.
        self.window_rows + 2 * self.page_rows + self.due_heads * (self.due_followers + 1)
    }
}
