//! Modes that end connections or keep them out, and the choice of some of them.

use rand::SeedableRng;
use rand::rngs::StdRng;
use tokio::net::TcpSocket;

use super::super::ConnectionId;
use super::*;

const CLOSED: (usize, Option<io::ErrorKind>) = (0, None);
const RESET: (usize, Option<io::ErrorKind>) = (0, Some(io::ErrorKind::ConnectionReset));

#[tokio::test(flavor = "multi_thread")]
async fn new_connections_are_refused_on_the_same_port_and_present_ones_go_on() {
    let (_server, proxy, mut client) = connected().await;
    let address = proxy.address();
    for _ in 0..20 {
        proxy.set(Mode::Refuse).await;
        let error = within(TcpStream::connect(address)).await.expect_err("nobody listens");
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
        round_trip(&mut client, b"still here").await;
        proxy.set(Mode::Pass).await;
        round_trip(&mut connect(&proxy).await, b"back").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_that_refuses_is_nobody_elses() {
    let server = Echo::start().await;
    let proxy = Proxy::start(server.address).await.expect("a proxy");
    proxy.set(Mode::Refuse).await;
    let other = TcpSocket::new_v4().expect("a socket");
    let error = other.bind(proxy.address()).expect_err("the port is held");
    assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
}

#[tokio::test(flavor = "multi_thread")]
async fn both_sides_of_a_cut_connection_hear_a_good_end() {
    let (mut server, proxy, mut client) = connected().await;
    proxy.set(Mode::Cut).await;
    assert_eq!(rest(&mut client).await, CLOSED);
    assert_eq!(server.next().await, Event::Closed);
    // So does who comes now, and the server does not hear of it.
    assert_eq!(visit(&proxy).await, CLOSED);
    assert!(server.events.try_recv().is_err());
    proxy.set(Mode::Pass).await;
    round_trip(&mut connect(&proxy).await, b"again").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cut_is_a_good_end_also_with_bytes_on_their_way() {
    let (mut server, proxy, mut client) = connected().await;
    proxy.set(Mode::StopReading).await;
    send(&mut client, b"not read").await;
    proxy.set(Mode::Cut).await;
    assert_eq!(rest(&mut client).await, CLOSED);
    assert_eq!(server.next().await, Event::Closed);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_delay_keeps_does_not_pass_when_all_stands() {
    // Whether the proxy has read the bytes before it is told to stop is up to the machine; often enough it has.
    for _ in 0..30 {
        let (mut server, proxy, mut client) = connected().await;
        proxy.set(Mode::Delay(Duration::from_secs(3600))).await;
        send(&mut client, b"kept").await;
        let mut other = connect(&proxy).await;
        send(&mut other, b"kept as well").await;
        assert_eq!(server.next().await, Event::Accepted);
        proxy.set(Mode::StopReading).await;
        drop(other);
        // Nothing changes for requests; they are looked at once more.
        proxy.set_direction(Direction::ToClient, Mode::Delay(Duration::ZERO)).await;
        proxy.set(Mode::Cut).await;
        assert_eq!(rest(&mut client).await, CLOSED);
        assert_eq!([server.next().await, server.next().await], [Event::Closed, Event::Closed]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn both_sides_of_a_reset_connection_hear_a_reset() {
    let (mut server, proxy, mut client) = connected().await;
    proxy.set(Mode::Reset).await;
    assert_eq!(rest(&mut client).await, RESET);
    assert_eq!(server.next().await, Event::Broke(io::ErrorKind::ConnectionReset));
    assert_eq!(visit(&proxy).await, RESET);
    assert!(server.events.try_recv().is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_request_arrives_and_its_response_ends_the_connection() {
    for (mode, comes) in [(Mode::CutOnResponse, 0), (Mode::CutAfterResponseBegins, 1)] {
        let (mut server, proxy, mut client) = connected().await;
        proxy.set(mode).await;
        send(&mut client, b"request").await;
        server.received(7).await;
        assert_eq!(rest(&mut client).await, (comes, None));
        assert_eq!(server.next().await, Event::Closed);
        counted(&proxy, |now| now.to_server == 12 && now.to_client == 5 + comes as u64).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn present_connections_can_be_ended_while_new_ones_pass() {
    let (mut server, proxy, mut client) = connected().await;
    assert_eq!(proxy.set_present(Mode::CutOnResponse).len(), 1);
    let mut new = connect(&proxy).await;
    round_trip(&mut new, b"new").await;
    server.received(3).await;
    send(&mut client, b"old").await;
    assert_eq!(rest(&mut client).await, CLOSED);
    round_trip(&mut new, b"on and on").await;
}

/// Resets a share of ten connections, and returns which ones, as the proxy says.
async fn some_of_ten(share: f64, seed: u64) -> Vec<ConnectionId> {
    let (_server, proxy, first) = connected().await;
    let mut clients = vec![first];
    for _ in 1..10 {
        let mut client = connect(&proxy).await;
        round_trip(&mut client, b"hello").await;
        clients.push(client);
    }
    let ids = proxy.present();
    let chosen = proxy.set_some(Mode::Reset, share, &mut StdRng::seed_from_u64(seed));
    for (client, id) in clients.iter_mut().zip(&ids) {
        if chosen.contains(id) {
            assert_eq!(rest(client).await, RESET);
        } else {
            round_trip(client, b"not me").await;
        }
    }
    round_trip(&mut connect(&proxy).await, b"nor me").await;
    counted(&proxy, |now| now.accepted == 11 && now.open <= 11 - chosen.len() as u64).await;
    chosen
}

#[tokio::test(flavor = "multi_thread")]
async fn a_seed_chooses_some_connections_and_chooses_them_again() {
    let chosen = some_of_ten(0.3, 7).await;
    assert_eq!(chosen.len(), 3);
    assert_eq!(chosen, some_of_ten(0.3, 7).await);
    assert_ne!(chosen, some_of_ten(0.3, 8).await);
    assert_eq!(some_of_ten(0.01, 7).await.len(), 1);
    assert_eq!(some_of_ten(1.0, 7).await.len(), 10);
}

#[tokio::test(flavor = "multi_thread")]
async fn some_are_stopped_and_go_on_in_another_order() {
    let (mut server, proxy, mut client) = connected().await;
    let stopped = proxy.set_some(Mode::Delay(Duration::from_secs(3600)), 1.0, &mut StdRng::seed_from_u64(1));
    send(&mut client, b"later").await;
    let mut other = connect(&proxy).await;
    round_trip(&mut other, b"the other").await;
    // These bytes and no others have arrived.
    server.received(9).await;
    assert!(proxy.set_one(stopped[0], Mode::Pass));
    assert_eq!(receive(&mut client, 5).await, b"later");
    drop(client);
    counted(&proxy, |now| now.open == 1).await;
    assert!(!proxy.set_one(stopped[0], Mode::Pass));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_away_or_resets_is_a_reset() {
    let (server, proxy, mut client) = connected().await;
    let away = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a free port");
    let nowhere = away.local_addr().expect("it is bound");
    drop(away);
    proxy.set_upstream(nowhere);
    assert_eq!(visit(&proxy).await, RESET);
    round_trip(&mut client, b"present ones stay").await;
    proxy.set_upstream(server.address);
    round_trip(&mut connect(&proxy).await, b"back").await;

    let resets = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a free port");
    proxy.set_upstream(resets.local_addr().expect("it is bound"));
    let visitor = tokio::spawn(async move { visit(&proxy).await });
    let (stream, _) = within(resets.accept()).await.expect("accepted");
    stream.set_zero_linger().expect("it can be reset");
    drop(stream);
    assert_eq!(within(visitor).await.expect("no panic"), RESET);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_that_is_gone_has_closed_everything() {
    let (mut server, proxy, mut client) = connected().await;
    let address = proxy.address();
    drop(proxy);
    rest(&mut client).await;
    assert_eq!(server.next().await, Event::Closed);
    let again = within(Proxy::start_on(address.port(), server.address)).await.expect("the port is free");
    assert_eq!(again.address(), address);
    round_trip(&mut connect(&again).await, b"again").await;
}
