//! The demo's verdict: the orders that were committed against the records that are in the topic. Pure.
//!
//! It believes no counter of the relay or of the demo: one side is the table, the other what a consumer read.

use std::collections::{HashMap, HashSet};

use uuid::Uuid;

use crate::store::demo::Order;

/// What the audit needs of a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// Where it lies.
    pub partition: i32,
    /// Its place in the partition.
    pub offset: i64,
    /// The event id in its header, which is the order's id.
    pub event_id: Option<Uuid>,
    /// Its key.
    pub customer: String,
    /// The version in its payload.
    pub version: Option<i64>,
}

/// What the audit found.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Findings {
    /// Orders in the table.
    pub committed: usize,
    /// Of these, how many are in the topic.
    pub delivered: usize,
    /// Committed orders without a record.
    pub lost: usize,
    /// Records without a committed order: rolled back, or never written by the order service.
    pub phantoms: usize,
    /// Records that say something else than their order: another customer or version.
    pub altered: usize,
    /// Records that come, at their first appearance, after a later one of their customer, or in another partition.
    pub out_of_order: usize,
    /// Records whose event id had appeared before.
    pub duplicates: usize,
    /// Customers with at least one order.
    pub customers: usize,
}

/// Compares the table with the topic. The records may come in any order.
pub fn audit(orders: &[Order], records: &[Seen]) -> Findings {
    let committed: HashMap<Uuid, &Order> = orders.iter().map(|order| (order.id, order)).collect();
    let customers: HashSet<&str> = orders.iter().map(|order| order.customer.as_str()).collect();
    let mut findings =
        Findings { committed: orders.len(), customers: customers.len(), ..Findings::default() };

    let mut records: Vec<&Seen> = records.iter().collect();
    records.sort_by_key(|record| (record.partition, record.offset));
    let mut appeared: HashSet<Uuid> = HashSet::new();
    // Partition and version of the newest record of each customer.
    let mut newest: HashMap<&str, (i32, i64)> = HashMap::new();
    for record in records {
        let order = record.event_id.and_then(|id| committed.get(&id));
        let Some(order) = order else {
            findings.phantoms += 1;
            continue;
        };
        if record.customer != order.customer || record.version != Some(order.version) {
            findings.altered += 1;
        }
        if !appeared.insert(order.id) {
            findings.duplicates += 1;
            continue;
        }
        let (partition, version) =
            newest.entry(&order.customer).or_insert((record.partition, order.version - 1));
        if *partition != record.partition || order.version <= *version {
            findings.out_of_order += 1;
        }
        *version = order.version.max(*version);
    }
    findings.delivered = appeared.len();
    findings.lost = findings.committed - findings.delivered;
    findings
}

impl Findings {
    /// Every promise was kept. `leaders` is how many leases were won: without a takeover there are no duplicates.
    pub fn hold(&self, leaders: usize) -> bool {
        let Findings { committed, lost, phantoms, altered, out_of_order, duplicates, .. } = *self;
        let duplicates_explained = duplicates == 0 || leaders > 1;
        committed > 0 && (lost, phantoms, altered, out_of_order) == (0, 0, 0, 0) && duplicates_explained
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(order: u128) -> Uuid {
        Uuid::from_u128(order)
    }

    /// Three orders of Ada (1, 2, 3) and one of Bob (4).
    fn orders() -> Vec<Order> {
        let order =
            |order, customer: &str, version| Order { id: id(order), customer: customer.into(), version };
        vec![order(1, "ada", 1), order(2, "ada", 2), order(3, "ada", 3), order(4, "bob", 1)]
    }

    /// A topic of one partition with these orders, in this order. Number 5 was rolled back: it was Bob's second.
    fn topic(orders_in_topic: &[u128]) -> Vec<Seen> {
        let known = orders();
        let record = |(offset, &order): (usize, &u128)| {
            let order = known.iter().find(|known| known.id == id(order)).cloned();
            let order = order.unwrap_or(Order { id: id(5), customer: "bob".into(), version: 2 });
            let (event_id, version, offset) = (Some(order.id), Some(order.version), offset as i64);
            Seen { partition: 0, offset, event_id, customer: order.customer, version }
        };
        orders_in_topic.iter().enumerate().map(record).collect()
    }

    #[track_caller]
    fn check(records: &[Seen], leaders: usize, holds: bool, expected: Findings) {
        let found = audit(&orders(), records);
        assert_eq!(found, expected);
        assert_eq!(found.hold(leaders), holds, "{found:?}");
    }

    const ALL: Findings = Findings {
        committed: 4,
        delivered: 4,
        lost: 0,
        phantoms: 0,
        altered: 0,
        out_of_order: 0,
        duplicates: 0,
        customers: 2,
    };

    #[test]
    fn every_order_once_and_in_turn_is_right() {
        check(&topic(&[1, 2, 3, 4]), 1, true, ALL);
        check(&topic(&[4, 1, 2, 3]), 2, true, ALL);
    }

    #[test]
    fn a_lost_order_is_found() {
        check(&topic(&[1, 3, 4]), 2, false, Findings { delivered: 3, lost: 1, ..ALL });
        check(&[], 2, false, Findings { delivered: 0, lost: 4, ..ALL });
    }

    #[test]
    fn an_order_that_was_rolled_back_is_found() {
        check(&topic(&[1, 2, 3, 4, 5]), 2, false, Findings { phantoms: 1, ..ALL });
        let mut nameless = topic(&[1, 2, 3, 4, 4]);
        nameless[4].event_id = None;
        check(&nameless, 2, false, Findings { phantoms: 1, ..ALL });
    }

    #[test]
    fn a_customer_whose_orders_changed_places_is_found() {
        check(&topic(&[2, 1, 3, 4]), 2, false, Findings { out_of_order: 1, ..ALL });
        check(&topic(&[3, 1, 2, 4]), 2, false, Findings { out_of_order: 2, ..ALL });
        // A gap that is filled too late, between copies that are as they should be.
        check(&topic(&[1, 3, 1, 2, 3, 4]), 2, false, Findings { out_of_order: 1, duplicates: 2, ..ALL });
        let mut scattered = topic(&[1, 2, 3, 4]);
        scattered[2].partition = 1;
        check(&scattered, 2, false, Findings { out_of_order: 1, ..ALL });
    }

    #[test]
    fn copies_are_right_only_after_a_takeover() {
        check(&topic(&[1, 2, 3, 2, 3, 4]), 2, true, Findings { duplicates: 2, ..ALL });
        check(&topic(&[1, 2, 3, 2, 3, 4]), 1, false, Findings { duplicates: 2, ..ALL });
    }

    #[test]
    fn a_record_that_says_something_else_is_found() {
        let mut altered = topic(&[1, 2, 3, 4]);
        altered[0].version = None;
        altered[3].customer = "eve".into();
        check(&altered, 1, false, Findings { altered: 2, ..ALL });
    }

    #[test]
    fn nothing_shows_nothing() {
        assert!(!audit(&[], &[]).hold(1));
    }
}
