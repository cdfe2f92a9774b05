//! Checks a document against one of `docs/schemas`: the part of JSON Schema that those use, and no other.
//!
//! An unknown keyword is an error here, so that no schema says something that nobody checks.

use std::path::Path;

use serde_json::Value;

/// Reads a schema by its name.
#[track_caller]
pub fn schema(name: &str) -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("docs/schemas/{name}.json"));
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_str(&text).expect("a schema is JSON")
}

/// What is wrong with the document, each with its place; nothing if it is as the schema says.
pub fn problems(schema: &Value, document: &Value) -> Vec<String> {
    let mut found = Vec::new();
    check(schema, schema, document, "$", &mut found);
    found
}

const SAID_ONLY: [&str; 4] = ["$schema", "$defs", "title", "description"];

fn check(root: &Value, schema: &Value, value: &Value, at: &str, found: &mut Vec<String>) {
    let fields = schema.as_object().unwrap_or_else(|| panic!("{at}: a schema is an object"));
    for (keyword, rule) in fields {
        match keyword.as_str() {
            keyword if SAID_ONLY.contains(&keyword) => {}
            "$ref" => {
                let path =
                    rule.as_str().and_then(|path| path.strip_prefix('#')).expect("a place in this file");
                let target = root.pointer(path).unwrap_or_else(|| panic!("{at}: there is no {path}"));
                check(root, target, value, at, found);
            }
            "type" => {
                let one = std::slice::from_ref(rule);
                let types = rule.as_array().map_or(one, Vec::as_slice);
                if !types.iter().any(|name| is_a(name.as_str().expect("a name"), value)) {
                    found.push(format!("{at}: {value} is no {rule}"));
                }
            }
            "enum" => {
                if !rule.as_array().expect("a list").contains(value) {
                    found.push(format!("{at}: {value} is none of {rule}"));
                }
            }
            "format" => {
                if value.as_str().is_some_and(|text| !has_format(rule.as_str().expect("a name"), text)) {
                    found.push(format!("{at}: {value} is no {rule}"));
                }
            }
            "items" => {
                for (number, item) in value.as_array().into_iter().flatten().enumerate() {
                    check(root, rule, item, &format!("{at}[{number}]"), found);
                }
            }
            "properties" => {
                let rules = rule.as_object().expect("an object");
                for (name, field) in value.as_object().into_iter().flatten() {
                    if let Some(rule) = rules.get(name) {
                        check(root, rule, field, &format!("{at}.{name}"), found);
                    }
                }
            }
            "required" => {
                let names = rule.as_array().expect("a list").iter().filter_map(Value::as_str);
                let missing = names.filter(|name| value.is_object() && value.get(name).is_none());
                found.extend(missing.map(|name| format!("{at}: {name} is missing")));
            }
            "additionalProperties" => {
                assert_eq!(*rule, Value::Bool(false), "{at}: only false is checked here");
                let known = schema.get("properties").and_then(Value::as_object).expect("properties");
                let unknown =
                    value.as_object().into_iter().flatten().filter(|(name, _)| !known.contains_key(*name));
                found.extend(unknown.map(|(name, _)| format!("{at}: {name} is not in the schema")));
            }
            other => panic!("{at}: the keyword {other} is not checked here"),
        }
    }
}

fn is_a(name: &str, value: &Value) -> bool {
    match name {
        "null" => value.is_null(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_i64() || value.is_u64(),
        "number" => value.is_number(),
        "string" => value.is_string(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        other => panic!("{other} is no type"),
    }
}

fn has_format(name: &str, text: &str) -> bool {
    match name {
        "uuid" => text.parse::<uuid::Uuid>().is_ok(),
        // 2026-01-31T12:00:00.5+00:00
        "date-time" => {
            let zone = text.rfind(['+', '-', 'Z']).filter(|at| *at >= 19);
            zone.is_some() && humantime::parse_rfc3339_weak(&text[..19]).is_ok()
        }
        other => panic!("{other} is no format"),
    }
}

#[test]
fn documents_that_differ_are_found_out() {
    let schema = serde_json::json!({
        "type": "array", "$defs": {"count": {"type": ["integer", "null"]}},
        "items": {"type": "object", "required": ["id"], "additionalProperties": false, "properties": {
            "id": {"$ref": "#/$defs/count"}, "at": {"type": "string", "format": "date-time"}, "state": {"enum": ["open"]}}}
    });
    let check = |document: Value, expected: &[&str]| {
        let found = problems(&schema, &document);
        assert_eq!(found.len(), expected.len(), "{found:?}");
        assert!(found.iter().zip(expected).all(|(found, part)| found.contains(part)), "{found:?}");
    };
    use serde_json::json;
    check(json!([{"id": 1, "at": "2026-01-31T12:00:00.5+00:00", "state": "open"}, {"id": null}]), &[]);
    check(json!({}), &["is no \"array\""]);
    check(json!([{}]), &["id is missing"]);
    check(json!([{"id": 1.5}]), &["$[0].id"]);
    check(json!([{"id": 1, "more": 1}]), &["more is not in the schema"]);
    check(json!([{"id": 1, "at": "yesterday"}]), &["date-time"]);
    check(json!([{"id": 1, "state": "shut"}]), &["is none of"]);
}
