//! The command line of outbox-relay.
fn main() {}
