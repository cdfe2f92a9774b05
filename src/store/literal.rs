//! Values as SQL text, for statements that go out as one message: the only place that quotes.
//!
//! Pure. Whatever a value holds, what comes out is one constant of one type and nothing else, under every setting of the
//! server. Where statements are prepared, values go beside them and nothing is quoted; see `call.rs`.

use std::borrow::Cow;

use uuid::Uuid;

/// A text holds a NUL byte. Postgres has no such text, and the protocol would end the statement there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a text holds a NUL byte, which Postgres cannot take")]
pub(super) struct NulByte;

/// What can stand in a statement.
pub(super) trait Literal {
    /// The name of its type in Postgres; the same one as when it is bound.
    const TYPE: &'static str;

    /// What Postgres reads as this value when it is told the type, unquoted; `None` is null.
    fn plain(&self) -> Option<Cow<'_, str>>;
}

/// The value as a constant: `'…'::type`.
pub(super) fn quote<T: Literal + ?Sized>(value: &T) -> Result<String, NulByte> {
    let Some(plain) = value.plain() else { return Ok(format!("null::{}", T::TYPE)) };
    if plain.contains('\0') {
        return Err(NulByte);
    }
    // With a backslash in it, what '…' means depends on standard_conforming_strings; what E'…' means does not.
    let escaped = plain.contains('\\');
    let mut text = String::with_capacity(plain.len() + T::TYPE.len() + 8);
    text.push_str(if escaped { " E'" } else { "'" });
    for part in plain.split_inclusive(['\'', '\\']) {
        text.push_str(part);
        // The last one once more: both are doubled.
        text.extend(part.chars().next_back().filter(|last| matches!(last, '\'' | '\\')));
    }
    text.push_str("'::");
    text.push_str(T::TYPE);
    Ok(text)
}

/// The text of an array, one dimension, from those of its elements.
fn array<'a, T: Literal + 'a>(elements: impl IntoIterator<Item = &'a T>) -> String {
    let mut text = String::from("{");
    for element in elements {
        if text.len() > 1 {
            text.push(',');
        }
        match element.plain() {
            None => text.push_str("null"),
            // Numbers are most of it, and as they are.
            Some(plain) if !plain.is_empty() && plain.bytes().all(|b| b.is_ascii_digit() || b == b'-') => {
                text.push_str(&plain);
            }
            Some(plain) => {
                text.push('"');
                for c in plain.chars() {
                    if matches!(c, '"' | '\\') {
                        text.push('\\');
                    }
                    text.push(c);
                }
                text.push('"');
            }
        }
    }
    text.push('}');
    text
}

/// Implements [`Literal`] for types whose `Display` Postgres reads, and for arrays of each.
macro_rules! displayed {
    ($($rust:ty => $name:literal, $array:literal;)*) => {$(
        impl Literal for $rust {
            const TYPE: &'static str = $name;
            fn plain(&self) -> Option<Cow<'_, str>> {
                Some(Cow::Owned(self.to_string()))
            }
        }
        arrays!($rust, $array);
    )*};
}

/// Implements [`Literal`] for arrays of a type, with and without nulls.
macro_rules! arrays {
    ($element:ty, $array:literal) => {
        impl Literal for [$element] {
            const TYPE: &'static str = $array;
            fn plain(&self) -> Option<Cow<'_, str>> {
                Some(Cow::Owned(array(self)))
            }
        }
        impl Literal for Vec<$element> {
            const TYPE: &'static str = $array;
            fn plain(&self) -> Option<Cow<'_, str>> {
                Some(Cow::Owned(array(self)))
            }
        }
        impl Literal for Vec<Option<$element>> {
            const TYPE: &'static str = $array;
            fn plain(&self) -> Option<Cow<'_, str>> {
                Some(Cow::Owned(array(self)))
            }
        }
    };
}

displayed! {
    bool => "bool", "bool[]";
    i32 => "int4", "int4[]";
    i64 => "int8", "int8[]";
    f64 => "float8", "float8[]";
    Uuid => "uuid", "uuid[]";
}
arrays!(&str, "text[]");
arrays!(String, "text[]");

impl Literal for str {
    const TYPE: &'static str = "text";
    fn plain(&self) -> Option<Cow<'_, str>> {
        Some(Cow::Borrowed(self))
    }
}

impl Literal for String {
    const TYPE: &'static str = "text";
    fn plain(&self) -> Option<Cow<'_, str>> {
        Some(Cow::Borrowed(self))
    }
}

impl Literal for Vec<u8> {
    const TYPE: &'static str = "bytea";
    fn plain(&self) -> Option<Cow<'_, str>> {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let mut text = String::with_capacity(2 + 2 * self.len());
        text.push_str("\\x");
        for byte in self {
            text.push(char::from(DIGITS[usize::from(byte >> 4)]));
            text.push(char::from(DIGITS[usize::from(byte & 15)]));
        }
        Some(Cow::Owned(text))
    }
}

impl<T: Literal + ?Sized> Literal for &T {
    const TYPE: &'static str = T::TYPE;
    fn plain(&self) -> Option<Cow<'_, str>> {
        (**self).plain()
    }
}

impl<T: Literal> Literal for Option<T> {
    const TYPE: &'static str = T::TYPE;
    fn plain(&self) -> Option<Cow<'_, str>> {
        self.as_ref().and_then(Literal::plain)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check<T: Literal + ?Sized>(value: &T, expected: &str) {
        assert_eq!(quote(value).expect("it can be written"), expected);
    }

    #[test]
    fn text_stays_inside_its_quotes() {
        check("", "''::text");
        check("orders", "'orders'::text");
        check("it's", "'it''s'::text");
        check("'; drop table outbox.message; --", "'''; drop table outbox.message; --'::text");
        check("\\", " E'\\\\'::text");
        check("\\'", " E'\\\\'''::text");
        check("a\\'); commit; --", " E'a\\\\''); commit; --'::text");
        check("$1 /* -- \n é", "'$1 /* -- \n é'::text");
        check(&"x".to_owned(), "'x'::text");
        check(&None::<&str>, "null::text");
        check(&Some("null"), "'null'::text");
    }

    #[test]
    fn a_nul_byte_is_refused_wherever_it_stands() {
        assert_eq!(quote("a\0b"), Err(NulByte));
        assert_eq!(quote(&Some("\0")), Err(NulByte));
        assert_eq!(quote(&vec!["fine", "a\0"]), Err(NulByte));
    }

    #[test]
    fn numbers_and_bytes_carry_their_type() {
        check(&-5_i64, "'-5'::int8");
        check(&i64::MIN, "'-9223372036854775808'::int8");
        check(&7_i32, "'7'::int4");
        check(&true, "'true'::bool");
        check(&0.25_f64, "'0.25'::float8");
        check(&f64::INFINITY, "'inf'::float8");
        check(&f64::NAN, "'NaN'::float8");
        check(&Uuid::nil(), "'00000000-0000-0000-0000-000000000000'::uuid");
        check(&vec![0_u8, 39, 92, 255], " E'\\\\x00275cff'::bytea");
        check(&Vec::<u8>::new(), " E'\\\\x'::bytea");
        check(&None::<Vec<u8>>, "null::bytea");
    }

    #[test]
    fn arrays_are_quoted_twice() {
        check(&Vec::<i64>::new(), "'{}'::int8[]");
        check(&vec![1_i64, -2], "'{1,-2}'::int8[]");
        check(&vec![Some(1_i64), None], "'{1,null}'::int8[]");
        check(&vec![true, false], "'{\"true\",\"false\"}'::bool[]");
        check(&vec!["a,b", "", "null", "{}", "it's"], "'{\"a,b\",\"\",\"null\",\"{}\",\"it''s\"}'::text[]");
        check(&vec!["say \"no\"", "\\"], " E'{\"say \\\\\"no\\\\\"\",\"\\\\\\\\\"}'::text[]");
        check(&vec![Some("x"), None], "'{\"x\",null}'::text[]");
        check(["a".to_owned()].as_slice(), "'{\"a\"}'::text[]");
    }
}
