//! The configuration: whether it can be read, and what it gives up.

use std::path::Path;

use super::report::Group;
use crate::config::{self, Config, ConfigError, DEFAULT_FILE};
use crate::daemon;

const CHECKS: &[&str] = &["settings", "promises"];

/// Reads and judges it. Without a configuration nothing else can be looked at.
pub fn look(file: Option<&Path>) -> (Group, Option<Config>) {
    let mut group = Group::new("configuration", CHECKS);
    let read = Config::load(file, config::environment()).and_then(|config| {
        daemon::check(&config)?;
        Ok(config)
    });
    let config = match read {
        Ok(config) => config,
        Err(ConfigError { problems }) => {
            let remedy = "outbox-relay config show prints every key with its value and where it comes from, once they \
                          can all be read; README lists them";
            group.fail("settings", problems.join("; "), remedy);
            return (group.finish(), None);
        }
    };
    let place = match file {
        Some(file) => file.display().to_string(),
        None if Path::new(DEFAULT_FILE).exists() => DEFAULT_FILE.to_owned(),
        None => "no file".to_owned(),
    };
    group.pass("settings", format!("{place} and the environment, every key is known"));
    match config.kafka.unsafe_properties.as_slice() {
        [] => group.pass("promises", "no property breaks one"),
        given_up => group.warn(
            "promises",
            format!("kafka.unsafe lets {} break a promise", given_up.join(", ")),
            "remove it from [kafka.properties] and from kafka.unsafe, unless that is what you want",
        ),
    }
    (group.finish(), Some(config))
}
