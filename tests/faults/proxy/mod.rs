//! A TCP proxy that stands between two parts and breaks what passes, as it is told to while it runs.
//!
//! It knows nothing of protocols: bytes, directions, connections. [`mode`] lists what it can do to them, `connection`
//! carries one connection and ends it, `pump` carries one direction of it. It listens on the loopback only.
#![allow(
    dead_code,
    unused_imports,
    reason = "two binaries include this module: one runs its tests, the other breaks with it, neither needs all of it"
)]

mod connection;
mod listen;
mod mode;
mod pump;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rand::Rng;
use rand::seq::index::sample;
use tokio::sync::watch;
use tokio::task::JoinHandle;

pub use self::mode::{Direction, Mode};

use self::listen::Port;
use self::mode::Rule;

/// A running proxy. Dropping it closes its port and all of its connections.
pub struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    listening: watch::Receiver<bool>,
    accepting: JoinHandle<()>,
}

/// Names a connection, for [`Proxy::set_one`]. Later ones have larger numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnectionId(u64);

/// What has passed since the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Connections that were accepted.
    pub accepted: u64,
    /// Connections that are open now, on the client's side at least.
    pub open: u64,
    /// Bytes handed to the server.
    pub to_server: u64,
    /// Bytes handed to clients.
    pub to_client: u64,
    /// Bytes that were read and thrown away.
    pub swallowed: u64,
}

/// What the proxy and its connections know in common.
struct Shared {
    state: Mutex<State>,
    /// The rule of new connections; the listener follows it.
    rule: watch::Sender<Rule>,
    accepted: AtomicU64,
    to_server: AtomicU64,
    to_client: AtomicU64,
    swallowed: AtomicU64,
}

struct State {
    upstream: SocketAddr,
    open: BTreeMap<ConnectionId, watch::Sender<Rule>>,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Registers a connection under the rule of this moment.
    fn admit(&self) -> (ConnectionId, SocketAddr, watch::Receiver<Rule>) {
        let mut state = self.state();
        let id = ConnectionId(self.accepted.fetch_add(1, Ordering::Relaxed));
        let (rule, heard) = watch::channel(*self.rule.borrow());
        state.open.insert(id, rule);
        (id, state.upstream, heard)
    }

    fn forget(&self, id: ConnectionId) {
        self.state().open.remove(&id);
    }
}

impl Proxy {
    /// Listens on a free port of the loopback and carries what comes to `upstream`.
    pub async fn start(upstream: SocketAddr) -> io::Result<Proxy> {
        Self::start_on(0, upstream).await
    }

    /// As [`Self::start`], on this port.
    pub async fn start_on(port: u16, upstream: SocketAddr) -> io::Result<Proxy> {
        let port = Port::hold(port)?;
        let address = port.address();
        let (rule, _) = watch::channel(Rule::both(Mode::Pass));
        let shared = Arc::new(Shared {
            state: Mutex::new(State { upstream, open: BTreeMap::new() }),
            rule,
            accepted: AtomicU64::new(0),
            to_server: AtomicU64::new(0),
            to_client: AtomicU64::new(0),
            swallowed: AtomicU64::new(0),
        });
        let (says, mut listening) = watch::channel(false);
        let accepting = tokio::spawn(listen::accept(port, Arc::clone(&shared), says));
        let proxy = Proxy { address, shared, listening: listening.clone(), accepting };
        listening
            .wait_for(|listening| *listening)
            .await
            .map_err(|_| io::Error::other("the port cannot be listened on"))?;
        Ok(proxy)
    }

    /// Where clients connect to.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// New connections go there from now on; present ones stay where they are.
    pub fn set_upstream(&self, upstream: SocketAddr) {
        self.shared.state().upstream = upstream;
    }

    /// Treats all connections so, present and future, in both directions. Counts for every byte that is sent after it
    /// has returned; ends of connections come a moment later.
    pub async fn set(&self, mode: Mode) {
        self.apply(|_| Rule::both(mode)).await;
    }

    /// As [`Self::set`], for what flows in one direction; the other one stays as it is. For the modes that say so.
    pub async fn set_direction(&self, direction: Direction, mode: Mode) {
        assert!(mode.has_direction(), "{mode:?} happens to a whole connection");
        self.apply(|rule| rule.with(direction, mode)).await;
    }

    /// Treats the present connections so; those to come are treated as before. Returns the present ones.
    pub fn set_present(&self, mode: Mode) -> Vec<ConnectionId> {
        let state = self.shared.state();
        state.open.values().for_each(|rule| rule.send_modify(|rule| *rule = Rule::both(mode)));
        state.open.keys().copied().collect()
    }

    /// Treats a random share of the present connections so (rounded up: of a few at least one), and returns them in
    /// random order. Whoever stops some one by one and lets them go on in another order "swizzles" them.
    pub fn set_some(&self, mode: Mode, share: f64, random: &mut impl Rng) -> Vec<ConnectionId> {
        let present = self.present();
        let some = (share.clamp(0.0, 1.0) * present.len() as f64).ceil() as usize;
        let chosen: Vec<ConnectionId> =
            sample(random, present.len(), some).into_iter().map(|at| present[at]).collect();
        for id in &chosen {
            let _has_ended = self.set_one(*id, mode);
        }
        chosen
    }

    /// Treats one connection so. False: it has ended.
    pub fn set_one(&self, id: ConnectionId, mode: Mode) -> bool {
        let state = self.shared.state();
        state.open.get(&id).map(|rule| rule.send_replace(Rule::both(mode))).is_some()
    }

    /// The connections that are open now, oldest first.
    pub fn present(&self) -> Vec<ConnectionId> {
        self.shared.state().open.keys().copied().collect()
    }

    /// What has passed.
    pub fn counts(&self) -> Counts {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        Counts {
            accepted: read(&self.shared.accepted),
            open: self.shared.state().open.len() as u64,
            to_server: read(&self.shared.to_server),
            to_client: read(&self.shared.to_client),
            swallowed: read(&self.shared.swallowed),
        }
    }

    async fn apply(&self, change: impl Fn(Rule) -> Rule) {
        let listens = {
            // Under the lock, so that no connection is admitted between the old rule and the new one.
            let state = self.shared.state();
            self.shared.rule.send_modify(|rule| *rule = change(*rule));
            state.open.values().for_each(|rule| rule.send_modify(|rule| *rule = change(*rule)));
            !self.shared.rule.borrow().refuses()
        };
        let obeyed = self.listening.clone().wait_for(|listening| *listening == listens).await.is_ok();
        assert!(obeyed, "the proxy on {} has ended: its port cannot be listened on", self.address);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}
