//! One connection: connects to the server, lets both directions flow, and ends as it is told to.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio::time::timeout;

use super::mode::{Direction, End, Rule};
use super::pump::Pump;
use super::{ConnectionId, Shared};

/// Small, so that a sender notices soon that nobody reads.
pub const RECEIVE_BUFFER: u32 = 128 * 1024;

/// How long a side that was told of the end may take to close as well.
const FAREWELL: Duration = Duration::from_secs(1);

/// Takes a connection off the list when its task ends, however it ends.
struct Listed<'a> {
    id: ConnectionId,
    shared: &'a Shared,
}

impl Drop for Listed<'_> {
    fn drop(&mut self) {
        self.shared.forget(self.id);
    }
}

/// Carries a client's connection until one side ends it or the rule does.
pub async fn serve(mut client: TcpStream, shared: Arc<Shared>) {
    let (id, upstream, mut rule) = shared.admit();
    let _listed = Listed { id, shared: &shared };
    let told = rule.borrow_and_update().end();
    if let Some(end) = told {
        return finish(end, client, None, rule).await;
    }
    let Ok(mut server) = connect(upstream).await else {
        // A server that is not there would have refused; this is the nearest to it.
        return finish(End::Reset, client, None, rule).await;
    };
    let end = match client.set_nodelay(true) {
        Ok(()) => carry(&mut client, &mut server, &shared, &rule).await,
        Err(_) => End::Reset,
    };
    finish(end, client, Some(server), rule).await;
}

async fn connect(upstream: SocketAddr) -> io::Result<TcpStream> {
    let socket = if upstream.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    socket.set_recv_buffer_size(RECEIVE_BUFFER)?;
    let server = socket.connect(upstream).await?;
    server.set_nodelay(true)?;
    Ok(server)
}

async fn carry(
    client: &mut TcpStream,
    server: &mut TcpStream,
    shared: &Shared,
    rule: &watch::Receiver<Rule>,
) -> End {
    let ((from_client, to_client), (from_server, to_server)) = (client.split(), server.split());
    let requests = Pump::new(Direction::ToServer, rule.clone(), shared).run(from_client, to_server);
    let responses = Pump::new(Direction::ToClient, rule.clone(), shared).run(from_server, to_client);
    match tokio::try_join!(requests, responses) {
        Ok(_) => End::Closed,
        Err(end) => end,
    }
}

async fn finish(end: End, client: TcpStream, server: Option<TcpStream>, mut rule: watch::Receiver<Rule>) {
    match end {
        End::Closed => {}
        End::Cut => {
            tokio::join!(bid_farewell(client), async {
                if let Some(server) = server {
                    bid_farewell(server).await;
                }
            });
        }
        End::Reset => [Some(client), server].into_iter().flatten().for_each(reset),
        End::HalfOpen => {
            drop(server);
            let mut client = client;
            let gone = tokio::select! {
                () = discard(&mut client) => true,
                _ = rule.wait_for(|rule| rule.end() != Some(End::HalfOpen)) => false,
            };
            if !gone {
                reset(client);
            }
        }
    }
}

/// Closes with a FIN: a socket that is dropped with unread bytes would send a reset.
async fn bid_farewell(mut stream: TcpStream) {
    let _gone_already = stream.shutdown().await;
    let _slow = timeout(FAREWELL, discard(&mut stream)).await;
}

/// Closes with a RST.
fn reset(stream: TcpStream) {
    let _gone_already = stream.set_zero_linger();
    drop(stream);
}

/// Reads to the end and keeps nothing.
async fn discard(stream: &mut TcpStream) {
    let mut buffer = vec![0; 4096];
    while stream.read(&mut buffer).await.is_ok_and(|bytes| bytes > 0) {}
}
