//! The port: held from start to end, listened on unless connections are to be refused.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::{Shared, connection};

/// Connections that wait to be accepted.
const BACKLOG: u32 = 1024;

/// A port that belongs to us although nobody may be listening on it.
///
/// A socket that is bound and does not listen keeps others from the port, and who connects is refused by the kernel.
/// Linux lets a second socket bind and listen beside it, as long as both say that they share.
pub struct Port {
    address: SocketAddr,
    _holder: TcpSocket,
    first: Option<TcpSocket>,
}

impl Port {
    /// Takes the port; 0 takes a free one.
    pub fn hold(port: u16) -> io::Result<Port> {
        let first = bind(SocketAddr::from((Ipv4Addr::LOCALHOST, port)))?;
        let address = first.local_addr()?;
        Ok(Port { address, _holder: bind(address)?, first: Some(first) })
    }

    /// Where it is.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    fn listen(&mut self) -> io::Result<TcpListener> {
        self.first.take().map_or_else(|| bind(self.address), Ok)?.listen(BACKLOG)
    }
}

fn bind(address: SocketAddr) -> io::Result<TcpSocket> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.set_recv_buffer_size(connection::RECEIVE_BUFFER)?;
    socket.bind(address)?;
    Ok(socket)
}

/// Accepts until it is aborted, and says whether it listens. Ends when the port cannot be listened on.
pub async fn accept(mut port: Port, shared: Arc<Shared>, says: watch::Sender<bool>) {
    let (mut rule, mut listener) = (shared.rule.subscribe(), None);
    // Its end aborts the connections.
    let mut connections = JoinSet::new();
    loop {
        let refuses = rule.borrow_and_update().refuses();
        if refuses {
            listener = None;
        } else if listener.is_none() {
            let Ok(open) = port.listen() else { return };
            listener = Some(open);
        }
        says.send_replace(!refuses);
        tokio::select! {
            changed = rule.changed() => if changed.is_err() { return },
            Some(_) = connections.join_next() => {}
            client = next(listener.as_ref()) => {
                // An error belongs to a connection that has ended before it was accepted.
                if let Ok(client) = client {
                    connections.spawn(connection::serve(client, Arc::clone(&shared)));
                }
            }
        }
    }
}

async fn next(listener: Option<&TcpListener>) -> io::Result<tokio::net::TcpStream> {
    match listener {
        Some(listener) => listener.accept().await.map(|(client, _)| client),
        None => std::future::pending().await,
    }
}
