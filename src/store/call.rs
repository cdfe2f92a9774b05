//! A statement with its values on its way to the server, and the two ways there.
//!
//! Straight to Postgres it is prepared once for each connection. Through a pooler in transaction mode (`postgres.pooler`)
//! every message may reach another server connection, so there is nothing to prepare on, no setting that stays, and a
//! client that froze between two messages would hold its locks and one of the pooler's few connections. There a statement
//! is **one message**: the settings for this transaction alone, then the statement with its values written into it. No
//! `begin`: several statements in one message are one transaction, which ends with the message also when one of them fails.
//! Nothing else in `store` knows which of the two it is.

use std::fmt::Write as _;
use std::sync::LazyLock;

use futures_util::TryStreamExt;
use sqlx::postgres::{PgArguments, PgConnection, PgRow};
use sqlx::query::Query;
use sqlx::{Encode, Executor, Postgres, Type};

use super::connect::SETTINGS;
use super::literal::{Literal, NulByte, quote};

/// Also for this transaction alone, because other clients of the pooler may have left them otherwise; and a cursor is
/// planned for all of its rows.
const WRITTEN_SETTINGS: [(&str, &str); 3] =
    [("lock_timeout", "0"), ("extra_float_digits", "1"), ("cursor_tuple_fraction", "1")];

/// A statement of `sql/` and its values. Made by `Session::call`.
pub(super) struct Call<'q>(Way<'q>);

enum Way<'q> {
    Prepared(Query<'q, Postgres, PgArguments>),
    Written { sql: &'static str, values: Result<Vec<String>, NulByte> },
}

impl<'q> Call<'q> {
    pub(super) fn prepared(sql: &'static str) -> Call<'q> {
        Call(Way::Prepared(sqlx::query(sql)))
    }

    pub(super) fn written(sql: &'static str) -> Call<'q> {
        Call(Way::Written { sql, values: Ok(Vec::new()) })
    }

    /// Gives the next `$n` its value.
    pub(super) fn bind<T>(self, value: T) -> Call<'q>
    where
        T: Literal + Encode<'q, Postgres> + Type<Postgres> + 'q,
    {
        Call(match self.0 {
            Way::Prepared(query) => Way::Prepared(query.bind(value)),
            Way::Written { sql, values } => {
                let add = |mut values: Vec<String>| {
                    values.push(quote(&value)?);
                    Ok(values)
                };
                Way::Written { sql, values: values.and_then(add) }
            }
        })
    }

    pub(super) async fn one(self, c: &mut PgConnection) -> Result<PgRow, sqlx::Error> {
        match self.0 {
            Way::Prepared(query) => query.fetch_one(c).await,
            Way::Written { sql, values } => c.fetch_one(sqlx::raw_sql(&message(sql, values, "")?)).await,
        }
    }

    pub(super) async fn maybe(self, c: &mut PgConnection) -> Result<Option<PgRow>, sqlx::Error> {
        match self.0 {
            Way::Prepared(query) => query.fetch_optional(c).await,
            Way::Written { sql, values } => c.fetch_optional(sqlx::raw_sql(&message(sql, values, "")?)).await,
        }
    }

    pub(super) async fn all(self, c: &mut PgConnection) -> Result<Vec<PgRow>, sqlx::Error> {
        match self.0 {
            Way::Prepared(query) => query.fetch_all(c).await,
            Way::Written { sql, values } => c.fetch_all(sqlx::raw_sql(&message(sql, values, "")?)).await,
        }
    }

    /// Shows `take` row after row, in the binary form that `row.rs` reads; sqlx itself would misread it.
    pub(super) async fn each(
        self,
        c: &mut PgConnection,
        mut take: impl FnMut(&PgRow) -> Result<(), sqlx::Error>,
    ) -> Result<(), sqlx::Error> {
        let text;
        let mut rows = match self.0 {
            Way::Prepared(query) => query.fetch(c),
            // Answers to a simple message are text, in which bytes take twice the room, except those of a binary cursor.
            Way::Written { sql, values } => {
                text = message(sql, values, "declare page no scroll binary cursor for")?
                    + "; fetch all from page";
                sqlx::raw_sql(&text).fetch(c)
            }
        };
        while let Some(row) = rows.try_next().await? {
            take(&row)?;
        }
        Ok(())
    }
}

/// The one message that a statement is.
fn message(sql: &str, values: Result<Vec<String>, NulByte>, before: &str) -> Result<String, sqlx::Error> {
    static PREFIX: LazyLock<String> = LazyLock::new(|| {
        // The functions refuse any other level; it has to come first.
        let mut prefix = "set transaction isolation level read committed; ".to_owned();
        for (name, value) in SETTINGS.iter().chain(&WRITTEN_SETTINGS) {
            // How the server keeps the pooler's connection alive is their business.
            if !name.starts_with("tcp_") {
                // A backslash there is for the start-up message.
                write!(prefix, "set local {name} to '{}'; ", value.replace('\\', ""))
                    .expect("a string takes it");
            }
        }
        prefix
    });
    let values = values.map_err(|nul| sqlx::Error::Encode(nul.into()))?;
    Ok(format!("{}{before} {}", *PREFIX, write_out(sql, &values)))
}

/// The statement with its values instead of `$1`, `$2`, …, and without its comments, which name them too.
fn write_out(sql: &str, values: &[String]) -> String {
    let mut text = String::with_capacity(sql.len() + values.iter().map(String::len).sum::<usize>());
    let mut rest = sql;
    while let Some(at) = rest.find(['-', '\'', '$']) {
        let (plain, special) = rest.split_at(at);
        text.push_str(plain);
        let taken = if special.starts_with("--") {
            special.find('\n').unwrap_or(special.len())
        } else if let Some(constant) = special.strip_prefix('\'') {
            // A doubled quote inside is the end of one constant and the beginning of the next.
            let end = constant.find('\'').map_or(special.len(), |end| end + 2);
            text.push_str(&special[..end]);
            end
        } else if let Some(number) = special.strip_prefix('$') {
            let digits = number.bytes().take_while(u8::is_ascii_digit).count();
            let value = number[..digits].parse::<usize>().ok().and_then(|n| values.get(n.checked_sub(1)?));
            text.push_str(
                value.expect("each $n of a statement is bound; every test of the statement would show it"),
            );
            1 + digits
        } else {
            text.push('-');
            1
        };
        rest = &special[taken..];
    }
    text.push_str(rest);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(sql: &str, values: &[&str], expected: &str) {
        let values: Vec<String> = values.iter().map(|&value| value.to_owned()).collect();
        assert_eq!(write_out(sql, &values), expected);
    }

    #[test]
    fn values_take_their_places_and_comments_go() {
        check("select 1 - 2", &[], "select 1 - 2");
        check("-- $1 is it\nselect $1", &["'a'::text"], "\nselect 'a'::text");
        check("select $2, $1 -- no; $3", &["1", "2"], "select 2, 1 ");
        check("select $1::text", &["'$2 -- '' \n'::text"], "select '$2 -- '' \n'::text::text");
        check("select '--$1''', $1", &["1"], "select '--$1''', 1");
        let eleven = ["1", "2", "3", "4", "5", "6", "7", "8", "9", "10", "11"];
        check("select $11, $1", &eleven, "select 11, 1");
    }

    #[test]
    fn settings_hold_for_the_transaction_alone() {
        let text = message("select 1", Ok(Vec::new()), "").expect("there is no value");
        assert!(text.starts_with("set transaction isolation level read committed; set local "), "{text}");
        assert!(text.ends_with("select 1"), "{text}");
        for part in text.split("; ").skip(1).filter(|part| part.trim() != "select 1") {
            assert!(part.starts_with("set local "), "{part} would outlive the transaction");
        }
    }
}
