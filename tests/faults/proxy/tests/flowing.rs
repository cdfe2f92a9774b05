//! Modes under which connections stay.

use std::time::{Duration, Instant};

use tokio::net::tcp::WriteHalf;

use super::*;

const HOUR: Duration = Duration::from_secs(3600);
const RESET: (usize, Option<io::ErrorKind>) = (0, Some(io::ErrorKind::ConnectionReset));

#[tokio::test(flavor = "multi_thread")]
async fn all_bytes_pass_and_the_end_of_one_side_reaches_the_other() {
    let (mut server, proxy, mut client) = connected().await;
    let bytes: Vec<u8> = (0..3_000_000_u32).map(|n| (n % 251) as u8).collect();
    let (mut read, mut write) = client.split();
    let mut back = vec![0; bytes.len()];
    let (sent, received) =
        within(async { tokio::join!(write.write_all(&bytes), read.read_exact(&mut back)) }).await;
    assert!(sent.is_ok() && received.is_ok() && back == bytes);
    server.received(bytes.len()).await;
    let passed = bytes.len() as u64 + 5;
    let counts = Counts { accepted: 1, open: 1, to_server: passed, to_client: passed, swallowed: 0 };
    counted(&proxy, |now| now == counts).await;
    client.shutdown().await.expect("one side closes");
    assert_eq!(server.next().await, Event::Closed);
    assert_eq!(rest(&mut client).await, (0, None));
    counted(&proxy, |now| now.open == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn delayed_bytes_come_later_but_not_slower() {
    let (_server, proxy, mut client) = connected().await;
    let delay = Duration::from_millis(150);
    proxy.set(Mode::Delay(delay)).await;
    let began = Instant::now();
    round_trip(&mut client, b"there and back").await;
    assert!(began.elapsed() >= delay * 2, "{:?}", began.elapsed());

    // One after the other, a hundred would take half a minute.
    proxy.set_direction(Direction::ToServer, Mode::Pass).await;
    let began = Instant::now();
    for n in 0..100 {
        send(&mut client, &[n]).await;
        counted(&proxy, |now| now.to_server == 20 + u64::from(n)).await;
    }
    assert_eq!(receive(&mut client, 100).await, (0..100).collect::<Vec<u8>>());
    assert!(began.elapsed() >= delay && began.elapsed() < delay * 70, "{:?}", began.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn one_direction_is_delayed_alone_and_what_waits_goes_on_when_all_is_well() {
    let (mut server, proxy, mut client) = connected().await;
    proxy.set_direction(Direction::ToClient, Mode::Delay(HOUR)).await;
    send(&mut client, b"requests").await;
    server.received(8).await;
    proxy.set(Mode::Pass).await;
    assert_eq!(receive(&mut client, 8).await, b"requests");

    let delay = Duration::from_millis(150);
    proxy.set_direction(Direction::ToServer, Mode::Delay(delay)).await;
    let began = Instant::now();
    send(&mut client, b"late").await;
    server.received(4).await;
    assert!(began.elapsed() >= delay, "{:?}", began.elapsed());
    assert_eq!(receive(&mut client, 4).await, b"late");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_throttled_stream_moves_so_many_bytes_in_a_second() {
    let (mut server, proxy, mut client) = connected().await;
    proxy.set_direction(Direction::ToServer, Mode::Throttle(100_000)).await;
    let began = Instant::now();
    send(&mut client, &[7; 50_000]).await;
    server.received(50_000).await;
    let took = began.elapsed();
    assert!(took >= Duration::from_millis(450) && took < Duration::from_secs(5), "{took:?}");
    receive(&mut client, 50_000).await;

    proxy.set(Mode::Pass).await;
    proxy.set_direction(Direction::ToClient, Mode::Throttle(100_000)).await;
    let began = Instant::now();
    round_trip(&mut client, &[7; 50_000]).await;
    assert!(began.elapsed() >= Duration::from_millis(450), "{:?}", began.elapsed());

    // A new speed counts at once: this would take half a day.
    proxy.set_direction(Direction::ToClient, Mode::Throttle(1)).await;
    send(&mut client, &[7; 50_000]).await;
    server.received(100_000).await;
    proxy.set(Mode::Pass).await;
    receive(&mut client, 50_000).await;
}

/// More than any kernel keeps for a sender.
const PLENTY: usize = 64 * 1024 * 1024;

/// Sends until nothing can be written for a while, and returns how much that was.
async fn send_until_stuck(write: &mut WriteHalf<'_>, bytes: &[u8]) -> usize {
    let mut sent = 0;
    while let Ok(written) = timeout(Duration::from_millis(300), write.write(&bytes[sent..])).await {
        sent += written.expect("the connection stays");
        assert!(sent < bytes.len(), "nothing stops the sender");
    }
    sent
}

#[tokio::test(flavor = "multi_thread")]
async fn who_stops_reading_fills_the_senders_buffers() {
    let (mut server, proxy, mut client) = connected().await;
    proxy.set(Mode::StopReading).await;
    let bytes = vec![1; PLENTY];
    let (mut read, mut write) = client.split();
    let sent = send_until_stuck(&mut write, &bytes).await;
    assert_eq!(proxy.counts().to_server, 5);
    // All of it is there when it goes on.
    proxy.set(Mode::Pass).await;
    let mut back = vec![0; bytes.len()];
    let (rest, all) =
        within(async { tokio::join!(write.write_all(&bytes[sent..]), read.read_exact(&mut back)) }).await;
    assert!(rest.is_ok() && all.is_ok() && back == bytes);
    server.received(bytes.len()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delay_keeps_so_much_and_no_more() {
    let (_server, proxy, mut client) = connected().await;
    proxy.set_direction(Direction::ToServer, Mode::Delay(HOUR)).await;
    let sent = send_until_stuck(&mut client.split().1, &vec![1; PLENTY]).await;
    // More than the kernel's buffers, which a delay must not depend on.
    assert!(sent > 8 * 1024 * 1024, "{sent}");
    assert_eq!(proxy.counts().to_server, 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_arrive_and_their_responses_are_swallowed() {
    let (mut server, proxy, mut client) = connected().await;
    proxy.set(Mode::SwallowResponses).await;
    send(&mut client, b"one").await;
    server.received(3).await;
    send(&mut client, b"two!").await;
    server.received(4).await;
    counted(&proxy, |now| now.swallowed == 7).await;
    // A connection with a hole does not go on.
    proxy.set(Mode::Pass).await;
    assert_eq!(rest(&mut client).await, RESET);
    assert_eq!(server.next().await, Event::Broke(io::ErrorKind::ConnectionReset));
    // One that has missed nothing does.
    let mut client = connect(&proxy).await;
    proxy.set(Mode::SwallowResponses).await;
    proxy.set(Mode::Pass).await;
    round_trip(&mut client, b"whole").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_half_open_connection_is_silent_until_it_is_reset() {
    let (mut server, proxy, mut client) = connected().await;
    proxy.set(Mode::HalfOpen).await;
    assert_eq!(server.next().await, Event::Closed);
    for _ in 0..3 {
        send(&mut client, b"is anybody there").await;
    }
    // Nor does it reach anybody who comes now.
    let mut late = connect(&proxy).await;
    send(&mut late, b"hello").await;
    counted(&proxy, |now| now.open == 2).await;
    assert!(server.events.try_recv().is_err());
    assert_eq!(client.try_read(&mut [0; 8]).expect_err("silence").kind(), io::ErrorKind::WouldBlock);
    // A client that leaves is let go.
    drop(late);
    counted(&proxy, |now| now.open == 1).await;
    proxy.set(Mode::Pass).await;
    assert_eq!(rest(&mut client).await, RESET);
    round_trip(&mut connect(&proxy).await, b"again").await;
}
