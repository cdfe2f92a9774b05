//! The picture of a [`Screen`]: the same state gives the same picture. Pure.
//!
//! Colours say nothing that words do not say as well.

use ratatui::Frame;
use ratatui::backend::TestBackend;
use ratatui::layout::{Alignment, Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span, Text};
use ratatui::widgets::{Cell, Paragraph, Row, Table};

use super::super::status::effect;
use super::super::table::{dash, maybe_time, one_line, time};
use super::screen::{Rates, Sample, Screen, backlog};
use crate::store::inspect::RequestRow;

const LEVELS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
/// From the name of a rate to its curve.
const RATE_WIDTH: usize = 24;
/// Lag that is worth a colour.
const LAG_SECONDS: f64 = 10.0;

/// Draws it over the whole frame.
pub fn draw(frame: &mut Frame<'_>, screen: &Screen) {
    let area = frame.area();
    // Beyond the smallest screen most of the room is for topics, and a part for what is below them.
    let more = area.height.saturating_sub(24) / 4;
    let [title, facts, rates, topics, stuck, requests, last] = Layout::vertical([
        Constraint::Length(1),
        Constraint::Length(4),
        Constraint::Length(4),
        Constraint::Min(3),
        Constraint::Length(4 + more),
        Constraint::Length(3 + more / 2),
        Constraint::Length(1),
    ])
    .areas(area);
    frame.render_widget(title_line(screen, title.width), title);
    frame.render_widget(last_line(screen), last);
    let Some(sample) = &screen.sample else {
        frame.render_widget(Paragraph::new("looking …"), facts);
        return;
    };
    frame.render_widget(Paragraph::new(facts_of(sample)), facts);
    frame.render_widget(Paragraph::new(rates_of(screen, rates.width)), rates);
    topics_of(frame, screen, sample, topics);
    let [keys, causes] =
        Layout::horizontal([Constraint::Fill(1), Constraint::Fill(1)]).spacing(2).areas(stuck);
    keys_of(frame, sample, keys);
    causes_of(frame, sample, causes);
    requests_of(frame, sample, requests);
}

/// The picture as lines of text, without colours.
pub fn as_text(screen: &Screen, columns: u16, lines: u16) -> String {
    let mut terminal = ratatui::Terminal::new(TestBackend::new(columns, lines))
        .expect("a picture in memory takes everything");
    terminal.draw(|frame| draw(frame, screen)).expect("a picture in memory takes everything");
    let buffer = terminal.backend().buffer();
    let mut text = String::new();
    for cells in buffer.content().chunks(usize::from(columns)) {
        let line: String = cells.iter().map(|cell| cell.symbol()).collect();
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

fn title_line(screen: &Screen, width: u16) -> Paragraph<'static> {
    let now = screen.sample.as_ref().map_or(String::new(), |sample| time(&sample.at));
    let name = if screen.is_paused { "outbox-relay top (stands still)" } else { "outbox-relay top" };
    let gap = usize::from(width).saturating_sub(name.len());
    Paragraph::new(format!("{name}{now:>gap$}")).style(heading())
}

fn last_line(screen: &Screen) -> Paragraph<'static> {
    match &screen.trouble {
        Some(trouble) => {
            Paragraph::new(one_line(&format!("what is shown is old: {trouble}"))).style(bad(true))
        }
        None => Paragraph::new("q quit   p pause   arrows scroll the topics"),
    }
}

fn facts_of(sample: &Sample) -> Vec<Line<'static>> {
    let o = &sample.overview;
    let leader = match &o.holder {
        None => Span::styled("nobody leads; is a relay running?", bad(true)),
        Some(holder) => {
            let silent = if sample.is_silent { ", silent, and no standby has taken over" } else { "" };
            let text = format!("{holder}, epoch {}, last beat {:.1} s ago{silent}", o.epoch, o.beat_seconds);
            Span::styled(one_line(&text), bad(sample.is_silent))
        }
    };
    let lag = match &o.oldest {
        None => "0 s, nothing waits".to_owned(),
        Some(oldest) => format!("{:.1} s, the oldest message is of {}", o.lag_seconds, time(oldest)),
    };
    let name = |name: &'static str| Span::raw(format!("{name:<8}"));
    vec![
        Line::from(vec![name("leader"), leader]),
        Line::from(vec![name("lag"), Span::styled(lag, bad(o.lag_seconds > LAG_SECONDS))]),
        Line::from(vec![
            name("waiting"),
            Span::raw(format!(
                "{} unread, {} in lanes, {} retrying, {} behind, {} scheduled",
                o.ready, o.laned, o.retrying, o.behind, o.scheduled
            )),
        ]),
        Line::from(vec![
            name("stuck"),
            Span::styled(format!("{} blocked keys", o.blocked_keys), bad(o.blocked_keys > 0)),
            Span::raw(", "),
            Span::styled(format!("{} dead letters", o.dead_letters), bad(o.dead_letters > 0)),
            Span::raw(format!(
                " of {} causes, since {}",
                o.causes,
                maybe_time(o.oldest_dead_letter.as_ref())
            )),
        ]),
    ]
}

fn rates_of(screen: &Screen, width: u16) -> Vec<Line<'static>> {
    let room = usize::from(width).saturating_sub(RATE_WIDTH);
    let shown = screen.history.len().min(room);
    let row = |name: &str, of: fn(&Rates) -> f64, colour: Color| {
        let values: Vec<f64> = screen.history.iter().skip(screen.history.len() - shown).map(of).collect();
        let now = values.last().map_or_else(dash, |rate| in_short(*rate));
        Line::from(vec![
            Span::raw(format!("{name:<12}{now:>9}   ")),
            Span::styled(curve(&values), Style::new().fg(colour)),
        ])
    };
    let title = format!(
        "{:<width$}",
        format!("{:<12}{:>9}   THE LAST {shown} LOOKS", "A SECOND", "NOW"),
        width = usize::from(width)
    );
    vec![
        Line::styled(title, heading()),
        row("published", |rates| rates.published, Color::Green),
        row("failed", |rates| rates.failed, Color::Yellow),
        row("dead", |rates| rates.dead, Color::Red),
    ]
}

fn topics_of(frame: &mut Frame<'_>, screen: &Screen, sample: &Sample, area: Rect) {
    let rows = sample.topics.iter().skip(screen.first_topic).map(|topic| {
        Row::new([
            left(&topic.topic),
            left(topic.cause.as_deref().unwrap_or("-")),
            number(backlog(topic)),
            number(topic.waiting),
            number(topic.retrying),
            number(topic.behind),
            number(topic.dead_letters),
            right(&topic.oldest.as_ref().map_or_else(dash, |oldest| between(oldest, &sample.at))),
        ])
    });
    let heading = ["TOPIC", "LANE", "*BACKLOG", "*IN LANE", "*RETRY", "*BEHIND", "*DEAD", "*OLDEST"];
    let widths = [
        Constraint::Fill(3),
        Constraint::Length(12),
        Constraint::Length(8),
        Constraint::Length(8),
        Constraint::Length(6),
        Constraint::Length(6),
        Constraint::Length(6),
        Constraint::Length(7),
    ];
    table(frame, rows.collect(), heading, &widths, "nothing of any topic waits", area);
}

fn keys_of(frame: &mut Frame<'_>, sample: &Sample, area: Rect) {
    let rows = sample.keys.iter().map(|key| {
        Row::new([
            left(&key.topic),
            left(key.key.as_deref().unwrap_or("-")),
            number(key.waiting),
            number(key.attempts),
        ])
    });
    let widths = [Constraint::Fill(1), Constraint::Fill(1), Constraint::Length(6), Constraint::Length(5)];
    table(
        frame,
        rows.collect(),
        ["TOPIC", "BLOCKED KEY", "*BEHIND", "*TRIES"],
        &widths,
        "no key is blocked",
        area,
    );
}

fn causes_of(frame: &mut Frame<'_>, sample: &Sample, area: Rect) {
    let rows = sample.causes.iter().map(|cause| {
        Row::new([
            number(cause.letters),
            left(&cause.reason),
            left(&cause.topics.join(",")),
            left(&cause.error),
        ])
    });
    let widths = [Constraint::Length(7), Constraint::Length(9), Constraint::Fill(1), Constraint::Fill(1)];
    table(
        frame,
        rows.collect(),
        ["*LETTERS", "DIED OF", "TOPICS", "ERROR"],
        &widths,
        "no dead letters",
        area,
    );
}

fn requests_of(frame: &mut Frame<'_>, sample: &Sample, area: Rect) {
    let what = |request: &RequestRow| match request.kind.as_str() {
        "pause" | "rate" | "policy" => effect(request),
        "maintenance" => "alerts are held back".to_owned(),
        _ => format!("{} rows done", request.done),
    };
    let rows = sample.requests.iter().map(|request| {
        Row::new([
            number(request.id),
            left(&request.kind),
            left(&request.state),
            left(&what(request)),
            right(&request.expires_at.as_ref().map_or_else(dash, |until| between(&sample.at, until))),
            left(&request.who),
        ])
    });
    let widths = [
        Constraint::Length(7),
        Constraint::Length(9),
        Constraint::Length(7),
        Constraint::Fill(3),
        Constraint::Length(7),
        Constraint::Fill(1),
    ];
    table(
        frame,
        rows.collect(),
        ["*REQUEST", "KIND", "STATE", "WHAT", "*ENDS IN", "WHO"],
        &widths,
        "no request is open",
        area,
    );
}

/// Rows under a heading; a `*` before a name puts it to the right. More rows than there is room for are not shown.
fn table<const N: usize>(
    frame: &mut Frame<'_>,
    rows: Vec<Row<'static>>,
    names: [&str; N],
    widths: &[Constraint; N],
    nothing: &'static str,
    area: Rect,
) {
    let cell = |name: &str| match name.strip_prefix('*') {
        Some(name) => right(name),
        None => left(name),
    };
    let is_empty = rows.is_empty();
    let table = Table::new(rows, widths.iter().copied()).column_spacing(1);
    frame.render_widget(table.header(Row::new(names.map(cell)).style(heading())), area);
    if is_empty && area.height > 1 {
        frame.render_widget(nothing, Rect { y: area.y + 1, height: 1, ..area });
    }
}

fn left(text: &str) -> Cell<'static> {
    Cell::from(one_line(text))
}

fn right(text: &str) -> Cell<'static> {
    Cell::from(Text::from(text.to_owned()).alignment(Alignment::Right))
}

fn number(number: i64) -> Cell<'static> {
    right(&number.to_string())
}

fn heading() -> Style {
    Style::new().add_modifier(Modifier::BOLD | Modifier::REVERSED)
}

fn bad(is_bad: bool) -> Style {
    if is_bad { Style::new().fg(Color::Red).add_modifier(Modifier::BOLD) } else { Style::new() }
}

/// One character a value, as high as it is against the highest one. Nothing at all is a dot.
fn curve(values: &[f64]) -> String {
    let most = values.iter().copied().fold(0.0, f64::max);
    let level = |value: &f64| {
        let part = value / most * LEVELS.len() as f64;
        if *value <= 0.0 { '.' } else { LEVELS[(part.ceil() as usize).clamp(1, LEVELS.len()) - 1] }
    };
    values.iter().map(level).collect()
}

/// The time from one moment to another, both as Postgres writes them in one session: `90 s`, `12 min`, `5 h`, `3 d`.
fn between(earlier: &str, later: &str) -> String {
    // One zone for both, so it makes no difference; but for the hour in which the clocks change.
    let moment = |text: &str| humantime::parse_rfc3339_weak(text.get(..19)?).ok();
    let Some(Ok(time)) = moment(earlier).zip(moment(later)).map(|(a, b)| b.duration_since(a)) else {
        return "0 s".to_owned();
    };
    match time.as_secs() {
        seconds @ ..120 => format!("{seconds} s"),
        seconds @ ..7_200 => format!("{} min", seconds / 60),
        seconds @ ..172_800 => format!("{} h", seconds / 3_600),
        seconds => format!("{} d", seconds / 86_400),
    }
}

/// A rate in at most seven characters.
fn in_short(rate: f64) -> String {
    match rate {
        0.0 => "0".to_owned(),
        small if small < 10.0 => format!("{small:.1}"),
        large if large < 1e6 => format!("{large:.0}"),
        huge => format!("{:.2} M", huge / 1e6),
    }
}

#[cfg(test)]
mod tests;
