//! Columns of text, and how times and numbers look in them. Pure.

/// Rows under a heading, in columns that are as wide as their widest cell. The last one is as long as it is.
#[derive(Debug)]
pub struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    /// An empty one. Headings are in capitals.
    pub fn new<const N: usize>(heading: [&str; N]) -> Table {
        Table { rows: vec![heading.map(str::to_owned).to_vec()] }
    }

    /// One row more.
    pub fn row<const N: usize>(&mut self, cells: [String; N]) {
        self.rows.push(cells.map(|cell| one_line(&cell)).to_vec());
    }

    /// The whole table; without rows only what it says when there is nothing.
    pub fn render(&self, nothing: &str) -> String {
        if self.rows.len() == 1 {
            return format!("{nothing}\n");
        }
        let columns = self.rows[0].len();
        let width =
            |column: usize| self.rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
        let widths: Vec<usize> = (0..columns).map(width).collect();
        let mut text = String::new();
        for row in &self.rows {
            let cells: Vec<String> =
                row.iter().zip(&widths).map(|(cell, &width)| format!("{cell:<width$}")).collect();
            text.push_str(cells.join("  ").trim_end());
            text.push('\n');
        }
        text
    }
}

/// Names and values, one a line.
pub fn facts(facts: &[(&str, String)]) -> String {
    let width = facts.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    facts.iter().map(|(name, value)| format!("{name:<width$}  {}\n", one_line(value))).collect()
}

/// A time of Postgres to the second: `2026-01-31 12:00:00+00:00`.
pub fn time(text: &str) -> String {
    let (date, rest) = text.split_once('T').unwrap_or((text, ""));
    let zone = rest.find(['+', '-', 'Z']).map_or("", |at| &rest[at..]);
    format!("{date} {}{zone}", rest.get(..8).unwrap_or(rest)).trim_end().to_owned()
}

/// The same, or a dash.
pub fn maybe_time(text: Option<&String>) -> String {
    text.map_or_else(dash, |text| time(text))
}

/// What stands where nothing is.
pub fn dash() -> String {
    "-".to_owned()
}

/// A cell is one line, whatever somebody has written into it, and no control character reaches the terminal.
pub fn one_line(cell: &str) -> String {
    cell.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let mut table = Table::new(["TOPIC", "ROWS"]);
        assert_eq!(table.render("nothing waits"), "nothing waits\n");
        table.row(["orders.of.customers".to_owned(), "7".to_owned()]);
        table.row(["a\u{1b}[31m\nb".to_owned(), "1234567".to_owned()]);
        assert_eq!(
            table.render(""),
            "TOPIC                ROWS\norders.of.customers  7\na [31m b             1234567\n"
        );
        assert_eq!(
            facts(&[("id", "1".to_owned()), ("topic", "orders".to_owned())]),
            "id     1\ntopic  orders\n"
        );
    }

    #[test]
    fn times_are_shown_to_the_second() {
        assert_eq!(time("2026-01-31T12:00:00.123456+00:00"), "2026-01-31 12:00:00+00:00");
        assert_eq!(time("2026-01-31T12:00:00-03:30"), "2026-01-31 12:00:00-03:30");
        assert_eq!(time("infinity"), "infinity");
    }
}
