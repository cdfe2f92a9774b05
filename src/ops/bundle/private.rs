//! What must not leave the house: keys, which are personal data now and then, and secrets of the configuration. Pure.

use serde_json::Value;

use crate::config::Config;

/// What stands where something was.
const BLOT: &str = "***";
/// Shorter texts are no secrets, and blotting them out would make holes everywhere.
const SHORTEST: usize = 4;

/// The document without keys of messages, whatever stands around them.
pub fn without_keys(value: Value) -> Value {
    match value {
        Value::Object(fields) => {
            let clean = |(name, value): (String, Value)| match name.as_str() {
                "key" | "key_base64" if !value.is_null() => (name, BLOT.into()),
                _ => (name, without_keys(value)),
            };
            Value::Object(fields.into_iter().map(clean).collect())
        }
        Value::Array(items) => Value::Array(items.into_iter().map(without_keys).collect()),
        other => other,
    }
}

/// The text without any secret of the configuration, should one have got into it.
pub fn without_secrets(text: &str, config: &Config) -> String {
    let secrets = config.secrets();
    let secrets = secrets.iter().map(|secret| secret.expose()).filter(|secret| secret.len() >= SHORTEST);
    secrets.fold(text.to_owned(), |text, secret| text.replace(secret, BLOT))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn keys_are_taken_out_wherever_they_are() {
        let found = without_keys(
            json!([{"topic": "orders", "key": "order-7", "value": {"key_base64": "/w==", "rate": 5}}, {"key": null}]),
        );
        assert_eq!(
            found,
            json!([{"topic": "orders", "key": "***", "value": {"key_base64": "***", "rate": 5}}, {"key": null}])
        );
    }

    #[test]
    fn secrets_are_blotted_out_of_any_text() {
        let variables = [
            ("DATABASE_URL", "postgres://relay:hun%40ter2@db/shop"),
            ("OUTBOX_RELAY__KAFKA__PROPERTIES", "sasl.password=geheim;security.protocol=SASL_SSL"),
        ];
        let variables = variables.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let config = Config::load_without_kafka(None, variables.into_iter()).expect("a configuration");
        let text = without_secrets("hun%40ter2 hun@ter2 geheim SASL_SSL relay", &config);
        assert_eq!(text, "*** *** *** SASL_SSL relay");
    }
}
