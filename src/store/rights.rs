//! What the login of a relay must be allowed to do, read from the text that grants it (`migrations/roles.sql`): one list, two uses.

use std::collections::BTreeMap;

use super::migration::ROLES;

/// One right on one object of the schema.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Right {
    /// `schema`, `table` (or view) or `sequence`.
    pub kind: &'static str,
    /// The object; with its schema unless it is one.
    pub object: String,
    /// The column, if the right is on that alone.
    pub column: Option<String>,
    /// `select`, `insert`, …
    pub privilege: String,
}

/// Every right that `migrate` grants to outbox_relay, functions aside.
pub(super) fn of_the_relay() -> Vec<Right> {
    ROLES.lines().filter_map(granted).flat_map(rights).collect()
}

/// Functions that are for others; all that are not named belong to the relay.
pub(super) fn functions_of_others() -> Vec<String> {
    let lists =
        ROLES.lines().filter_map(|line| line.trim().strip_prefix("when proname in (")?.split_once(')'));
    lists
        .flat_map(|(names, _)| names.split(','))
        .map(|name| name.trim().trim_matches('\'').to_owned())
        .collect()
}

/// Privileges on an object, each with its columns.
type Privileges<'a> = Vec<(&'a str, Vec<&'a str>)>;

/// The statements that grant these, as few as there can be.
pub fn grants(missing: &[Right]) -> Vec<String> {
    let mut objects: BTreeMap<(&str, &str), Privileges<'_>> = BTreeMap::new();
    for right in missing {
        let privileges = objects.entry((right.kind, &right.object)).or_default();
        let at = match privileges.iter().position(|(name, _)| *name == right.privilege) {
            Some(at) => at,
            None => {
                privileges.push((&right.privilege, Vec::new()));
                privileges.len() - 1
            }
        };
        privileges[at].1.extend(right.column.as_deref());
    }
    let statement = |((kind, object), privileges): ((&str, &str), Privileges<'_>)| {
        let kind = if kind == "table" { String::new() } else { format!("{kind} ") };
        let words = privileges.iter().map(|(name, columns)| match columns.is_empty() {
            true => (*name).to_owned(),
            false => format!("{name} ({})", columns.join(", ")),
        });
        format!("grant {} on {kind}{object} to outbox_relay;", words.collect::<Vec<_>>().join(", "))
    };
    objects.into_iter().map(statement).collect()
}

/// What a line grants to the relay: `select, insert on outbox.ledger`.
fn granted(line: &str) -> Option<&str> {
    line.trim().strip_prefix("('outbox_relay', '")?.split_once('\'').map(|(what, _)| what)
}

fn rights(what: &str) -> Vec<Right> {
    let (privileges, on) = what.rsplit_once(" on ").unwrap_or((what, ""));
    let (kind, objects) = match on.split_once(' ') {
        Some(("schema", objects)) => ("schema", objects),
        Some(("sequence", objects)) => ("sequence", objects),
        _ => ("table", on),
    };
    let mut found = Vec::new();
    for object in objects.split(',').map(str::trim) {
        let mut rest = privileges;
        while !rest.is_empty() {
            let end = rest.find([',', '(']).unwrap_or(rest.len());
            let privilege = rest[..end].trim().to_owned();
            let (columns, after) = match rest[end..].strip_prefix('(').and_then(|list| list.split_once(')')) {
                Some((columns, after)) => (Some(columns), after),
                None => (None, &rest[end..]),
            };
            rest = after.trim_start().trim_start_matches(',').trim_start();
            let right = |column: Option<&str>| Right {
                kind,
                object: object.to_owned(),
                column: column.map(|column| column.trim().to_owned()),
                privilege: privilege.clone(),
            };
            match columns {
                None => found.push(right(None)),
                Some(columns) => found.extend(columns.split(',').map(|column| right(Some(column)))),
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(what: &str, expected: &[(&str, &str, &str, &str)]) {
        let found = rights(what);
        let found: Vec<(&str, &str, &str, &str)> = found
            .iter()
            .map(|r| (r.kind, r.object.as_str(), r.column.as_deref().unwrap_or(""), r.privilege.as_str()))
            .collect();
        assert_eq!(found, expected, "{what}");
    }

    #[test]
    fn grants_are_taken_apart_and_put_together_again() {
        check("usage on schema outbox", &[("schema", "outbox", "", "usage")]);
        check("select on sequence outbox.s", &[("sequence", "outbox.s", "", "select")]);
        check(
            "select, insert on outbox.a, outbox.b",
            &[
                ("table", "outbox.a", "", "select"),
                ("table", "outbox.a", "", "insert"),
                ("table", "outbox.b", "", "select"),
                ("table", "outbox.b", "", "insert"),
            ],
        );
        check(
            "select, update (state, done) on outbox.r",
            &[
                ("table", "outbox.r", "", "select"),
                ("table", "outbox.r", "state", "update"),
                ("table", "outbox.r", "done", "update"),
            ],
        );
        let again = ["select, update (state, done) on outbox.r", "usage on schema outbox"];
        let missing: Vec<Right> = again.into_iter().flat_map(rights).collect();
        assert_eq!(
            grants(&missing),
            [
                "grant usage on schema outbox to outbox_relay;",
                "grant select, update (state, done) on outbox.r to outbox_relay;"
            ]
        );
    }

    #[test]
    fn the_list_is_read_from_the_text_that_grants() {
        let rights = of_the_relay();
        assert!(rights.len() > 30, "{rights:?}");
        for (object, privilege) in
            [("outbox.ledger", "insert"), ("outbox.beat", "update"), ("outbox", "usage")]
        {
            assert!(rights.iter().any(|r| r.object == object && r.privilege == privilege), "{object}");
        }
        let others = functions_of_others();
        assert!(
            others.contains(&"publish".to_owned()) && others.contains(&"requeue".to_owned()),
            "{others:?}"
        );
    }
}
