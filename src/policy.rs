//! Policies: what is done with a topic's rows when they fail, expire, or come too fast.
//!
//! Must not await, log, read a clock or draw random numbers. Where the words come from is `config`; what is done is `relay`.

use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use crate::backoff::Backoff;

/// An enum whose variants are words of the configuration.
macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $word:literal,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum $name {
            $($(#[$variant_doc])* $variant,)*
        }

        impl $name {
            /// The word in the configuration.
            pub fn as_str(self) -> &'static str {
                match self {
                    $($name::$variant => $word,)*
                }
            }
        }

        impl FromStr for $name {
            type Err = String;

            fn from_str(text: &str) -> Result<Self, String> {
                match text {
                    $($word => Ok($name::$variant),)*
                    _ => Err(format!("must be {}", [$($word),*].join(" or "))),
                }
            }
        }
    };
}

words! {
    /// What a row that failed means for the later rows of its key.
    OnFailure {
        /// They wait until it is out or dead.
        Block = "block",
        /// They pass it; the key has no order then.
        Skip = "skip",
    }
}

words! {
    /// What consumers get.
    Delivery {
        /// Every row, some twice.
        AtLeastOnce = "at_least_once",
        /// No row twice, some never.
        AtMostOnce = "at_most_once",
    }
}

words! {
    /// What becomes of a row whose `expires_at` has passed.
    OnExpiry {
        /// It is counted and forgotten.
        Drop = "drop",
        /// It becomes a dead letter.
        DeadLetter = "dead_letter",
    }
}

words! {
    /// How much it matters; alerts go by it.
    Tier {
        /// Somebody is woken.
        Critical = "critical",
        /// The usual.
        Standard = "standard",
        /// Somebody looks at it in the morning.
        Low = "low",
    }
}

/// What is done with the rows of one topic.
#[derive(Debug, Clone, PartialEq)]
pub struct Policy {
    /// What a row that failed means for the later rows of its key.
    pub on_failure: OnFailure,
    /// What consumers get.
    pub delivery: Delivery,
    /// What becomes of expired rows.
    pub on_expiry: OnExpiry,
    /// Attempts that fail by a row's own fault, until it is dead.
    pub attempts: u32,
    /// Time since the first of them, until it is dead.
    pub age: Duration,
    /// Waits between its attempts.
    pub backoff: Backoff,
    /// Records a second at most.
    pub rate: Option<u32>,
    /// Rows that may die in a minute before the topic stands still.
    pub dead_per_minute: u32,
    /// A topic that gets a copy of each dead letter.
    pub dead_letter_topic: Option<Arc<str>>,
    /// Who is asked about it.
    pub owner: Option<String>,
    /// How much it matters.
    pub tier: Tier,
}

impl Default for Policy {
    fn default() -> Policy {
        Policy {
            on_failure: OnFailure::Block,
            delivery: Delivery::AtLeastOnce,
            on_expiry: OnExpiry::Drop,
            attempts: 10,
            age: Duration::from_secs(86_400),
            backoff: Backoff { base: Duration::from_secs(1), max: Duration::from_secs(300) },
            rate: None,
            dead_per_minute: 100,
            dead_letter_topic: None,
            owner: None,
            tier: Tier::Standard,
        }
    }
}

/// What a `[[topic]]` section, or a request at run time, changes.
#[derive(Debug, Clone, Default, PartialEq)]
#[allow(missing_docs, reason = "the fields are those of Policy")]
pub struct Change {
    pub on_failure: Option<OnFailure>,
    pub delivery: Option<Delivery>,
    pub on_expiry: Option<OnExpiry>,
    pub attempts: Option<u32>,
    pub age: Option<Duration>,
    pub base: Option<Duration>,
    pub max: Option<Duration>,
    /// `Some(None)` takes a limit away.
    pub rate: Option<Option<u32>>,
    pub dead_per_minute: Option<u32>,
    pub dead_letter_topic: Option<String>,
    pub owner: Option<String>,
    pub tier: Option<Tier>,
}

impl Change {
    /// Reads a change as a request spells it: the keys of a `[[topic]]` section, without `match`. The error is a sentence.
    pub fn from_json(value: &serde_json::Value) -> Result<Change, String> {
        let Some(fields) = value.as_object() else { return Err("the policy is no JSON object".to_owned()) };
        let mut change = Change::default();
        for (name, value) in fields {
            let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            let wrong = |reason: String| format!("{name} = {text} {reason}");
            let count = |least: u32| {
                let count = text.parse::<u32>().map_err(|_| wrong("is not a whole number".to_owned()))?;
                if count < least { Err(wrong(format!("must be at least {least}"))) } else { Ok(count) }
            };
            let duration = |least: Duration| {
                let reason = "is not a duration: write a number and a unit, such as 5ms, 20s or 1h";
                let duration = humantime::parse_duration(&text).map_err(|_| wrong(reason.to_owned()))?;
                let shown = humantime::format_duration(least);
                if duration < least { Err(wrong(format!("must be at least {shown}"))) } else { Ok(duration) }
            };
            const WAIT: Duration = Duration::from_millis(1);
            match name.as_str() {
                "on_failure" => change.on_failure = Some(text.parse().map_err(wrong)?),
                "on_expiry" => change.on_expiry = Some(text.parse().map_err(wrong)?),
                "attempts" => change.attempts = Some(count(1)?),
                "age" => change.age = Some(duration(Duration::from_secs(1))?),
                "base" => change.base = Some(duration(WAIT)?),
                "max" => change.max = Some(duration(WAIT)?),
                "rate" => change.rate = Some(if value.is_null() { None } else { Some(count(1)?) }),
                "dead_per_minute" => change.dead_per_minute = Some(count(0)?),
                // Rows that are on their way would be settled in two ways.
                "delivery" => return Err("delivery can only be changed in the configuration".to_owned()),
                _ => return Err(format!("{name} is not a key of a policy that can be changed at run time")),
            }
        }
        Ok(change)
    }
}

impl Policy {
    /// This policy with a change.
    pub fn with(mut self, change: &Change) -> Policy {
        fn put<T: Clone>(to: &mut T, from: &Option<T>) {
            if let Some(value) = from {
                to.clone_from(value);
            }
        }
        put(&mut self.on_failure, &change.on_failure);
        put(&mut self.delivery, &change.delivery);
        put(&mut self.on_expiry, &change.on_expiry);
        put(&mut self.attempts, &change.attempts);
        put(&mut self.age, &change.age);
        put(&mut self.backoff.base, &change.base);
        put(&mut self.backoff.max, &change.max);
        put(&mut self.dead_per_minute, &change.dead_per_minute);
        put(&mut self.tier, &change.tier);
        put(&mut self.rate, &change.rate);
        self.owner = change.owner.clone().or(self.owner);
        self.dead_letter_topic =
            change.dead_letter_topic.as_deref().map(Arc::from).or(self.dead_letter_topic);
        self
    }
}

/// A pattern of topic names: `*` stands for any characters, `?` for one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Glob(String);

impl FromStr for Glob {
    type Err = String;

    fn from_str(text: &str) -> Result<Glob, String> {
        let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | '*' | '?');
        if text.is_empty() || !text.chars().all(legal) {
            return Err(
                "is not a pattern of topic names: letters, digits, . _ - and * for any, ? for one".to_owned()
            );
        }
        Ok(Glob(text.to_owned()))
    }
}

impl Glob {
    /// As it was written.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether the name fits.
    pub fn matches(&self, name: &str) -> bool {
        let (pattern, name) = (self.0.as_bytes(), name.as_bytes());
        let (mut p, mut n) = (0, 0);
        // Where the last star stands, and how much of the name it has taken so far: going back to it is enough.
        let mut star: Option<(usize, usize)> = None;
        while n < name.len() {
            match pattern.get(p) {
                Some(b'*') => {
                    star = Some((p, n));
                    p += 1;
                }
                Some(&c) if c == b'?' || c == name[n] => (p, n) = (p + 1, n + 1),
                _ => match star {
                    Some((at, taken)) => {
                        star = Some((at, taken + 1));
                        (p, n) = (at + 1, taken + 1);
                    }
                    None => return false,
                },
            }
        }
        pattern[p..].iter().all(|c| *c == b'*')
    }
}

/// The policies of all topics.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Policies {
    default: Policy,
    rules: Vec<(Glob, Change)>,
}

impl Policies {
    /// `rules` apply in their order: what a later one says overrides what an earlier one said.
    pub fn new(default: Policy, rules: Vec<(Glob, Change)>) -> Policies {
        Policies { default, rules }
    }

    /// The policy of this topic.
    pub fn of(&self, topic: &str) -> Policy {
        let rules = self.rules.iter().filter(|(glob, _)| glob.matches(topic));
        rules.fold(self.default.clone(), |policy, (_, change)| policy.with(change))
    }

    /// The same with one more rule behind the others.
    pub fn and(&self, glob: Glob, change: Change) -> Policies {
        let mut policies = self.clone();
        policies.rules.push((glob, change));
        policies
    }

    /// Topics that are named in full: by a pattern that is no more than a name, or as the place of dead letters.
    pub fn topics(&self) -> Vec<&str> {
        let copies = self.rules.iter().filter_map(|(_, change)| change.dead_letter_topic.as_deref());
        self.names().chain(copies).collect()
    }

    /// The topics that rules name in full.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.rules.iter().map(|(glob, _)| glob.as_str()).filter(|name| !name.contains(['*', '?']))
    }

    /// Whether some topic may be declared at-most-once.
    pub fn mention_at_most_once(&self) -> bool {
        self.rules.iter().any(|(_, change)| change.delivery == Some(Delivery::AtMostOnce))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(glob: &str, name: &str, expected: bool) {
        assert_eq!(glob.parse::<Glob>().expect("a pattern").matches(name), expected, "{glob} {name}");
    }

    #[test]
    fn patterns_fit_whole_names() {
        check("orders", "orders", true);
        check("orders", "orders.eu", false);
        check("orders*", "orders", true);
        check("*.audit", "a.b.audit", true);
        check("*.audit", "audit", false);
        check("a?c", "abc", true);
        check("a?c", "ac", false);
        check("*a*b*c*", "xxaxxbxxcxx", true);
        check("*a*b*c*", "xxaxxcxxbxx", false);
        check("*", "", true);
        check(&"*a".repeat(40), &"a".repeat(100), true);
        check(&format!("{}b", "*a".repeat(40)), &"a".repeat(10_000), false);
        for bad in ["", "a b", "ä", "a/b", "[ab]"] {
            assert!(bad.parse::<Glob>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_later_section_overrides_key_by_key() {
        let rule = |glob: &str, change| (glob.parse().expect("a pattern"), change);
        let policies = Policies::new(
            Policy::default(),
            vec![
                rule("*", Change { attempts: Some(3), owner: Some("platform".into()), ..Change::default() }),
                rule(
                    "audit.*",
                    Change { owner: Some("audit".into()), rate: Some(Some(5)), ..Change::default() },
                ),
            ],
        );
        let policy = policies.of("audit.login");
        assert_eq!((policy.attempts, policy.owner.as_deref(), policy.rate), (3, Some("audit"), Some(5)));
        assert_eq!(
            policies.of("orders"),
            Policy { attempts: 3, owner: Some("platform".into()), ..Policy::default() }
        );
        let change = Change { delivery: Some(Delivery::AtMostOnce), ..Change::default() };
        assert!(!policies.mention_at_most_once());
        let more = policies.and("orders".parse().expect("a pattern"), change);
        assert!(more.mention_at_most_once());
        assert_eq!(more.of("orders").delivery, Delivery::AtMostOnce);
    }

    #[test]
    fn a_change_is_read_as_a_request_spells_it() {
        let read = |text: &str| Change::from_json(&serde_json::from_str(text).expect("JSON"));
        let change =
            read(r#"{"attempts": 3, "max": "2s", "on_failure": "skip", "rate": null}"#).expect("a change");
        assert_eq!((change.attempts, change.max), (Some(3), Some(Duration::from_secs(2))));
        assert_eq!((change.on_failure, change.rate), (Some(OnFailure::Skip), Some(None)));
        assert_eq!(
            read(r#"{"age": 5}"#),
            Err("age = 5 is not a duration: write a number and a unit, such as 5ms, 20s or 1h".to_owned())
        );
        assert!(read(r#"{"delivery": "at_most_once"}"#).is_err());
        for odd in [r#"{"attempts": 0}"#, r#"{"base": "0s"}"#, r#"{"age": "1ms"}"#, r#"{"rate": 0}"#] {
            assert!(read(odd).is_err(), "{odd}");
        }
        assert!(read(r#"{"atempts": 1}"#).is_err() && read("[]").is_err());
    }

    #[test]
    fn words_are_those_of_the_configuration() {
        assert_eq!("skip".parse(), Ok(OnFailure::Skip));
        assert_eq!("at_most_once".parse(), Ok(Delivery::AtMostOnce));
        assert_eq!("dead_letter".parse(), Ok(OnExpiry::DeadLetter));
        assert_eq!("low".parse(), Ok(Tier::Low));
        assert_eq!("wait".parse::<OnFailure>(), Err("must be block or skip".to_owned()));
        assert_eq!(Tier::Critical.as_str(), "critical");
    }
}
