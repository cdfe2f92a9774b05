//! Each mode against a server that echoes: what is seen at both ends would be seen by nobody if the mode did nothing.

mod closing;
mod flowing;

use std::future::Future;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval, timeout};

use super::{Counts, Direction, Mode, Proxy};

const DEADLINE: Duration = Duration::from_secs(20);

/// What happens at the server's side of a connection.
#[derive(Debug, PartialEq, Eq)]
enum Event {
    Accepted,
    /// So many bytes arrived; they are echoed after that.
    Received(usize),
    /// The other side closed in good order.
    Closed,
    /// The connection broke.
    Broke(io::ErrorKind),
}

/// A server that sends back what it receives.
struct Echo {
    address: SocketAddr,
    events: mpsc::UnboundedReceiver<Event>,
}

impl Echo {
    async fn start() -> Echo {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let (tell, events) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(echo(stream, tell.clone()));
            }
        });
        Echo { address, events }
    }

    async fn next(&mut self) -> Event {
        within(self.events.recv()).await.expect("the server goes on")
    }

    /// Waits until so many bytes have arrived, over all connections; nobody leaves meanwhile.
    async fn received(&mut self, bytes: usize) {
        let mut sum = 0;
        let arrive = async {
            while sum < bytes {
                match self.next().await {
                    Event::Received(bytes) => sum += bytes,
                    Event::Accepted => {}
                    event => panic!("{event:?} after {sum} of {bytes} bytes"),
                }
            }
        };
        within(arrive).await;
        assert_eq!(sum, bytes);
    }
}

async fn echo(mut stream: TcpStream, tell: mpsc::UnboundedSender<Event>) {
    let say = |event| drop(tell.send(event));
    say(Event::Accepted);
    let mut buffer = vec![0; 256 * 1024];
    loop {
        match stream.read(&mut buffer).await {
            Ok(0) => return say(Event::Closed),
            Ok(bytes) => {
                say(Event::Received(bytes));
                if let Err(error) = stream.write_all(&buffer[..bytes]).await {
                    return say(Event::Broke(error.kind()));
                }
            }
            Err(error) => return say(Event::Broke(error.kind())),
        }
    }
}

/// An echo server, a proxy before it, and a client that has had one echo through it.
async fn connected() -> (Echo, Proxy, TcpStream) {
    let mut server = Echo::start().await;
    let proxy = Proxy::start(server.address).await.expect("a proxy");
    let mut client = connect(&proxy).await;
    round_trip(&mut client, b"hello").await;
    server.received(5).await;
    (server, proxy, client)
}

async fn connect(proxy: &Proxy) -> TcpStream {
    within(TcpStream::connect(proxy.address())).await.expect("the proxy accepts")
}

async fn send(client: &mut TcpStream, bytes: &[u8]) {
    within(client.write_all(bytes)).await.expect("it can be written");
}

async fn receive(client: &mut TcpStream, bytes: usize) -> Vec<u8> {
    let mut buffer = vec![0; bytes];
    within(client.read_exact(&mut buffer)).await.expect("all of it comes");
    buffer
}

async fn round_trip(client: &mut TcpStream, bytes: &[u8]) {
    send(client, bytes).await;
    assert_eq!(receive(client, bytes.len()).await, bytes);
}

/// What is left to read, and how it ends: nothing or the error.
async fn rest(client: &mut TcpStream) -> (usize, Option<io::ErrorKind>) {
    let mut bytes = Vec::new();
    let end = within(client.read_to_end(&mut bytes)).await;
    (bytes.len(), end.err().map(|error| error.kind()))
}

/// As [`rest`], of a new connection; one that is reset at once may not even seem to have begun.
async fn visit(proxy: &Proxy) -> (usize, Option<io::ErrorKind>) {
    match within(TcpStream::connect(proxy.address())).await {
        Ok(mut client) => rest(&mut client).await,
        Err(error) => (0, Some(error.kind())),
    }
}

async fn within<T>(future: impl Future<Output = T>) -> T {
    timeout(DEADLINE, future).await.expect("it happens before the deadline")
}

/// Waits until the proxy's counts are so.
async fn counted(proxy: &Proxy, holds: impl Fn(Counts) -> bool) {
    let mut looks = interval(Duration::from_millis(5));
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let look = async {
        while !holds(proxy.counts()) {
            looks.tick().await;
        }
    };
    assert!(timeout(DEADLINE, look).await.is_ok(), "{:?}", proxy.counts());
}
