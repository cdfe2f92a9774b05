//! Takes a Postgres URL with one or several hosts apart into URLs with one host each, which is what the driver knows.
//! It is strict where the driver is lenient: an unknown parameter (`sslmod=verify-full`) would silently mean less security.
//! No message repeats a part of the URL: in a malformed one any part may be a piece of the password.

use super::Secret;

/// A checked URL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PostgresUrl {
    /// One URL a host, in the order given.
    pub hosts: Vec<Secret>,
    /// Hosts and database without user and password, for `config show`.
    pub shown: String,
}

/// Parameters that the driver understands; it ignores others with a warning.
const PARAMETERS: &[&str] = &[
    "sslmode",
    "sslrootcert",
    "sslcert",
    "sslkey",
    "host",
    "hostaddr",
    "port",
    "dbname",
    "user",
    "password",
    "application_name",
    "options",
    "statement-cache-capacity",
];
const SSL_MODES: &[&str] = &["disable", "allow", "prefer", "require", "verify-ca", "verify-full"];

/// Splits and checks the URL; on failure all that is wrong with it.
pub(super) fn parse(url: &str) -> Result<PostgresUrl, Vec<String>> {
    let Some(rest) = ["postgres://", "postgresql://"].iter().find_map(|scheme| url.strip_prefix(scheme))
    else {
        return fail("must begin with postgres:// (a URL, not host=… dbname=…)");
    };
    if rest.chars().any(|c| c.is_whitespace() || c.is_control()) {
        return fail("must not contain blanks or line breaks; write a blank as %20");
    }
    let (authority, tail) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
    if tail.contains(['@', '#']) {
        return fail(
            "a /, ?, # or @ in the user name, password or a parameter must be written as %2F, %3F, %23 or %40",
        );
    }
    let (user, hosts) = match authority.rfind('@') {
        Some(at) => authority.split_at(at + 1),
        None => ("", authority),
    };
    let (path, query) = tail.split_once('?').unwrap_or((tail, ""));
    let database = path.trim_start_matches('/');

    let mut problems = Vec::new();
    let (parameters, has_host, shown_parameters) = parameters(query, &mut problems);
    if database.contains('/') {
        problems.push("the database name must not contain /; write it as %2F".to_owned());
    }
    let hosts: Vec<&str> = hosts.split(',').collect();
    if hosts.len() > 1 && has_host {
        problems
            .push("several hosts go before the /, without the parameters host, hostaddr and port".to_owned());
    }
    for (at, host) in hosts.iter().enumerate() {
        if let Err(problem) = check_host(host, hosts.len() == 1) {
            problems.push(format!("host {}: {problem}", at + 1));
        }
    }
    if !problems.is_empty() {
        return Err(problems);
    }
    let query = if parameters.is_empty() { String::new() } else { format!("?{parameters}") };
    let single = |host: &&str| Secret::from(format!("postgres://{user}{host}/{database}{query}"));
    Ok(PostgresUrl {
        hosts: hosts.iter().map(single).collect(),
        shown: format!(
            "postgres://{}{}/{database}{shown_parameters}",
            if user.is_empty() { "" } else { "***@" },
            hosts.join(",")
        ),
    })
}

/// The passwords of a URL that was accepted, each as it is written and as it is meant.
pub(super) fn passwords(url: &str) -> Vec<String> {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let (before, query) = rest.split_once('?').unwrap_or((rest, ""));
    let user = before.rsplit_once('@').and_then(|(user, _)| user.split_once(':'));
    let parameters = query.split('&').filter_map(|parameter| parameter.split_once('='));
    let parameters = parameters.filter(|(name, _)| *name == "password").map(|(_, value)| value);
    let found: Vec<&str> = user.map(|(_, password)| password).into_iter().chain(parameters).collect();
    found.iter().flat_map(|written| [(*written).to_owned(), decoded(written)]).collect()
}

/// With `%40` as `@`.
fn decoded(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        let code =
            tail.get(..2).filter(|_| *first == b'%').and_then(|digits| std::str::from_utf8(digits).ok());
        match code.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = &tail[2..];
            }
            None => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The file with the client certificate that a checked URL names.
pub(super) fn certificate(url: &str) -> Option<std::path::PathBuf> {
    let (_, query) = url.split_once('?')?;
    let named = query.split('&').find_map(|parameter| parameter.strip_prefix("sslcert="))?;
    // The driver undoes escapes; a path that has any is left to it.
    (!named.contains('%')).then(|| named.into())
}

fn fail<T>(problem: &str) -> Result<T, Vec<String>> {
    Err(vec![problem.to_owned()])
}

/// Checks the parameters; returns those for the driver, whether they name a host or port, and those that may be shown.
fn parameters(query: &str, problems: &mut Vec<String>) -> (String, bool, String) {
    let (mut kept, mut has_host, mut shown) = (Vec::new(), false, Vec::new());
    for parameter in query.split('&').filter(|parameter| !parameter.is_empty()) {
        let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
        match name {
            // What these two ask for is what the relay does anyway: it stays only on the writable host.
            "target_session_attrs" if ["read-write", "primary", "any"].contains(&value) => continue,
            "target_session_attrs" => {
                problems
                    .push("target_session_attrs: the relay needs the writable server; remove it".to_owned());
            }
            "sslmode" if !SSL_MODES.contains(&value) => {
                problems.push(format!("sslmode must be one of {}", SSL_MODES.join(", ")));
            }
            "port" if !is_port(value) => problems.push("port must be a number from 1 to 65535".to_owned()),
            "host" if value.contains(',') => problems.push("several hosts go before the /".to_owned()),
            name if PARAMETERS.contains(&name) || name.starts_with("options[") => {}
            // The name is withheld: with an unencoded ? in the password it could be a piece of that.
            _ => problems.push(format!("has an unknown parameter; known are {}", PARAMETERS.join(", "))),
        }
        has_host |= matches!(name, "host" | "hostaddr" | "port");
        if matches!(name, "sslmode" | "host" | "hostaddr" | "port" | "dbname") {
            shown.push(parameter);
        }
        kept.push(parameter);
    }
    let shown = if shown.is_empty() { String::new() } else { format!("?{}", shown.join("&")) };
    (kept.join("&"), has_host, shown)
}

/// One `host`, `host:port`, `[v6]` or `[v6]:port`; a lone empty one means the parameter `host` or the driver's default.
fn check_host(host: &str, alone: bool) -> Result<(), &'static str> {
    if let Some(bracketed) = host.strip_prefix('[') {
        let Some((address, port)) = bracketed.split_once(']') else {
            return Err("the ] of the IPv6 address is missing");
        };
        if address.parse::<std::net::Ipv6Addr>().is_err() {
            return Err("is not an IPv6 address in brackets");
        }
        return match port.strip_prefix(':') {
            None if port.is_empty() => Ok(()),
            Some(port) if is_port(port) => Ok(()),
            _ => Err("the port must be a number from 1 to 65535"),
        };
    }
    let (name, port) = match host.split_once(':') {
        Some((_, port)) if port.contains(':') => return Err("an IPv6 address must stand in [brackets]"),
        Some((name, port)) => (name, Some(port)),
        None => (host, None),
    };
    let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | '%');
    if !name.chars().all(legal) {
        return Err("is not a host name");
    }
    if name.is_empty() && !(alone && port.is_none()) {
        return Err("is empty");
    }
    match port {
        Some(port) if !is_port(port) => {
            Err("the port must be a number from 1 to 65535 (a : or / in a password is written %3A or %2F)")
        }
        _ => Ok(()),
    }
}

fn is_port(text: &str) -> bool {
    text.parse::<u16>().is_ok_and(|port| port > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(url: &str, expected: Result<(&[&str], &str), &str>) {
        match (parse(url), expected) {
            (Ok(parsed), Ok((hosts, shown))) => {
                let exposed: Vec<&str> = parsed.hosts.iter().map(Secret::expose).collect();
                assert_eq!(exposed, hosts, "{url}");
                assert_eq!(parsed.shown, shown, "{url}");
            }
            (Err(problems), Err(part)) => {
                let text = problems.join("\n");
                assert!(text.contains(part), "{url}: {text} should contain {part}");
                assert!(!text.contains("hunter"), "{url}: {text} shows the password");
            }
            (found, _) => panic!("{url}: {found:?}"),
        }
    }

    #[test]
    fn several_hosts_become_one_url_each() {
        check("postgres://relay@db/shop", Ok((&["postgres://relay@db/shop"], "postgres://***@db/shop")));
        check(
            "postgresql://u:p%40ss%2F@h1:5432,h2/db?sslmode=verify-full&sslrootcert=/etc/ca.pem",
            Ok((
                &[
                    "postgres://u:p%40ss%2F@h1:5432/db?sslmode=verify-full&sslrootcert=/etc/ca.pem",
                    "postgres://u:p%40ss%2F@h2/db?sslmode=verify-full&sslrootcert=/etc/ca.pem",
                ],
                "postgres://***@h1:5432,h2/db?sslmode=verify-full",
            )),
        );
        check(
            "postgres://u@[::1]:5433,[fd00::2]/db",
            Ok((
                &["postgres://u@[::1]:5433/db", "postgres://u@[fd00::2]/db"],
                "postgres://***@[::1]:5433,[fd00::2]/db",
            )),
        );
        check(
            "postgres:///db?host=/run/postgresql&user=relay&password=x",
            Ok((
                &["postgres:///db?host=/run/postgresql&user=relay&password=x"],
                "postgres:///db?host=/run/postgresql",
            )),
        );
        check(
            "postgres://u@%2Frun%2Fpg/db",
            Ok((&["postgres://u@%2Frun%2Fpg/db"], "postgres://***@%2Frun%2Fpg/db")),
        );
        check(
            "postgres://h1,h2/db?target_session_attrs=read-write",
            Ok((&["postgres://h1/db", "postgres://h2/db"], "postgres://h1,h2/db")),
        );
        check(
            "postgres://u:hun@ter@h1,h2",
            Ok((&["postgres://u:hun@ter@h1/", "postgres://u:hun@ter@h2/"], "postgres://***@h1,h2/")),
        );
    }

    #[test]
    fn malformed_urls_are_explained_without_their_password() {
        check("host=db password=hunter2", Err("must begin with postgres://"));
        check("mysql://u:hunter2@db/shop", Err("must begin with postgres://"));
        check("postgres://u:hunter 2@db/shop", Err("%20"));
        check("postgres://u:12/hunter@db/shop", Err("%2F"));
        check("postgres://u:12?hunter@db/shop", Err("%3F"));
        check("postgres://u:hunter/x", Err("host 1: the port must be a number"));
        check("postgres://u:hunter2@h1,/db", Err("host 2: is empty"));
        check("postgres://u:hunter2@h1:99999/db", Err("65535"));
        check("postgres://u:hunter2@fd00::1/db", Err("[brackets]"));
        check("postgres://u:hunter2@[fd00::1/db", Err("] of the IPv6 address"));
        check("postgres://u:hunter2@[db]/db", Err("IPv6 address in brackets"));
        check("postgres://u:hunter2@h1/db/x", Err("database name"));
        check("postgres://u:hunter2@h1/db?sslmod=verify-full", Err("unknown parameter"));
        check("postgres://u:hunter2@h1/db?sslmode=on", Err("sslmode must be one of disable"));
        check("postgres://u:hunter2@h1,h2/db?port=5433", Err("several hosts"));
        check("postgres://u:hunter2@/db?host=a,b", Err("several hosts"));
        check("postgres://u:hunter2@h1/db?target_session_attrs=standby", Err("writable"));
        check("postgres://h1:0,h2:x/db?sslmode=on", Err("host 2"));
    }

    #[test]
    fn passwords_are_found_as_written_and_as_meant() {
        let check = |url: &str, expected: &[&str]| assert_eq!(passwords(url), expected, "{url}");
        check("postgres://u@h/d", &[]);
        check("postgres://u:p%40ss@h/d", &["p%40ss", "p@ss"]);
        check("postgres://u:hun@ter@h/d?sslmode=require", &["hun@ter", "hun@ter"]);
        check("postgres://h/d?password=100%25", &["100%25", "100%"]);
    }
}
