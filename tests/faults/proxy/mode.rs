//! What can be done to connections. Plain values; `pump` and `connection` do it.

use std::time::Duration;

/// A direction of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// From client to server: requests.
    ToServer,
    /// From server to client: responses.
    ToClient,
}

/// How connections are treated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// All bytes pass at once.
    Pass,
    /// Every byte passes so much later, without making the stream slower. Has a direction.
    Delay(Duration),
    /// So many bytes pass in a second, for each connection and direction. Has a direction.
    Throttle(u64),
    /// Connections stay open and nothing passes or is read, so that the sender's buffers fill. Has a direction.
    StopReading,
    /// Nobody listens: new connections are refused. Present ones pass.
    Refuse,
    /// Both sides are closed in good order (FIN). New connections are accepted and closed.
    Cut,
    /// Both sides are reset (RST). New connections are accepted and reset.
    Reset,
    /// Requests arrive, responses are read and thrown away. A connection that has missed bytes is reset when it is
    /// to go on: no network repairs that.
    SwallowResponses,
    /// The request arrives; both sides are closed when its response comes, of which nothing passes.
    CutOnResponse,
    /// The request arrives; both sides are closed when the first byte of its response has passed.
    CutAfterResponseBegins,
    /// The server's side is closed, the client's stays open; what it sends vanishes and nothing comes. When it is to
    /// go on it is reset, as by a host that came back and does not know it.
    HalfOpen,
}

impl Mode {
    /// Whether it can happen to one direction alone.
    pub fn has_direction(self) -> bool {
        matches!(self, Mode::Pass | Mode::Delay(_) | Mode::Throttle(_) | Mode::StopReading)
    }
}

/// How a connection ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// Both sides had closed, and each heard of the other.
    Closed,
    /// In good order, now.
    Cut,
    /// With a reset, now.
    Reset,
    /// On the server's side only.
    HalfOpen,
}

/// The modes of both directions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rule {
    to_server: Mode,
    to_client: Mode,
}

impl Rule {
    /// The same in both.
    pub fn both(mode: Mode) -> Rule {
        Rule { to_server: mode, to_client: mode }
    }

    /// Another mode in one direction. A mode of whole connections ends with that.
    pub fn with(self, direction: Direction, mode: Mode) -> Rule {
        let rest = |mode: Mode| if mode.has_direction() { mode } else { Mode::Pass };
        match direction {
            Direction::ToServer => Rule { to_server: mode, to_client: rest(self.to_client) },
            Direction::ToClient => Rule { to_server: rest(self.to_server), to_client: mode },
        }
    }

    /// The mode of a direction.
    pub fn of(self, direction: Direction) -> Mode {
        match direction {
            Direction::ToServer => self.to_server,
            Direction::ToClient => self.to_client,
        }
    }

    /// No new connections.
    pub fn refuses(self) -> bool {
        self.to_server == Mode::Refuse
    }

    /// How a connection ends under it, whatever passes.
    pub fn end(self) -> Option<End> {
        match self.to_server {
            Mode::Cut => Some(End::Cut),
            Mode::Reset => Some(End::Reset),
            Mode::HalfOpen => Some(End::HalfOpen),
            _ => None,
        }
    }
}
