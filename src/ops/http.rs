//! One question to a relay's HTTP endpoint, as simple as the protocol allows. A library would be larger than the question.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, bail};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// For connection and answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// No answer of ours is nearly as large.
const BYTES_MAX: u64 = 64 * 1024 * 1024;

/// Where a relay with this `http.listen` is reached from its own host.
pub fn local(listen: SocketAddr) -> String {
    let ip = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, listen.port()).to_string()
}

/// The body of the answer. A probe that says no is an answer as well.
pub async fn get(address: &str, path: &str) -> anyhow::Result<String> {
    let asked = async {
        let mut stream =
            TcpStream::connect(address).await.with_context(|| format!("connect to {address}"))?;
        // 1.0: the answer comes in one piece and ends with the connection.
        stream.write_all(format!("GET {path} HTTP/1.0\r\nhost: {address}\r\n\r\n").as_bytes()).await?;
        let mut answer = Vec::new();
        stream.take(BYTES_MAX).read_to_end(&mut answer).await?;
        anyhow::Ok(answer)
    };
    let answer = tokio::time::timeout(PATIENCE, asked).await;
    let answer =
        answer.with_context(|| format!("{address} does not answer within {} s", PATIENCE.as_secs()))??;
    let answer = String::from_utf8_lossy(&answer);
    let (head, body) =
        answer.split_once("\r\n\r\n").with_context(|| format!("{address} does not speak HTTP"))?;
    match head.split(' ').nth(1) {
        Some("200" | "503") => Ok(body.to_owned()),
        code => bail!("{address}{path} answers {}", code.unwrap_or("nothing that is HTTP")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_relay_that_listens_everywhere_is_asked_here() {
        let check =
            |listen: &str, expected: &str| assert_eq!(local(listen.parse().expect("an address")), expected);
        check("0.0.0.0:9464", "127.0.0.1:9464");
        check("[::]:9464", "[::1]:9464");
        check("10.1.2.3:9000", "10.1.2.3:9000");
    }
}
