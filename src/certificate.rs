//! When a certificate expires: the one field that is read out of PEM files, so that an alert can warn weeks ahead.
//!
//! Pure. It checks nothing: whether a certificate is good is for the TLS libraries, which refuse a bad one.

/// The earliest end of validity among the certificates of a PEM text, in Unix seconds. `None`: there is none that can be read.
pub fn expiry(pem: &str) -> Option<i64> {
    let blocks = pem.split("-----BEGIN CERTIFICATE-----").skip(1);
    let bodies = blocks.filter_map(|block| block.split("-----END CERTIFICATE-----").next());
    bodies.filter_map(|body| not_after(&from_base64(body)?)).min()
}

/// DER tags that lead to the field.
const INTEGER: u8 = 0x02;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
const SEQUENCE: u8 = 0x30;
const EXPLICIT_0: u8 = 0xa0;

/// Certificate { tbs { [0] version?, serial, algorithm, issuer, validity { not before, not after }, … } … }
fn not_after(der: &[u8]) -> Option<i64> {
    let (certificate, _) = element(der, SEQUENCE)?;
    let (mut tbs, _) = element(certificate, SEQUENCE)?;
    if let Some((_, rest)) = element(tbs, EXPLICIT_0) {
        tbs = rest;
    }
    for tag in [INTEGER, SEQUENCE, SEQUENCE] {
        (_, tbs) = element(tbs, tag)?;
    }
    let (validity, _) = element(tbs, SEQUENCE)?;
    let (_, rest) = time(validity)?;
    time(rest).map(|(at, _)| at)
}

/// The content of the element at the front if it has this tag, and what follows it.
fn element(der: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (&found, rest) = der.split_first()?;
    let (&first, mut rest) = rest.split_first()?;
    let mut length = usize::from(first);
    if length >= 0x80 {
        let bytes = length & 0x7f;
        if bytes == 0 || bytes > 4 || rest.len() < bytes {
            return None;
        }
        let (long, behind) = rest.split_at(bytes);
        length = long.iter().fold(0, |sum, byte| (sum << 8) | usize::from(*byte));
        rest = behind;
    }
    (found == tag && rest.len() >= length).then(|| rest.split_at(length))
}

fn time(der: &[u8]) -> Option<(i64, &[u8])> {
    let (text, rest, century_digits) = match element(der, UTC_TIME) {
        Some((text, rest)) => (text, rest, 2),
        None => element(der, GENERALIZED_TIME).map(|(text, rest)| (text, rest, 4))?,
    };
    let text = std::str::from_utf8(text).ok()?;
    let part = |from: usize, digits: usize| text.get(from..from + digits)?.parse::<i64>().ok();
    let year = part(0, century_digits)?;
    // Two digits mean 1950 to 2049, says RFC 5280.
    let year = match century_digits {
        4 => year,
        _ if year < 50 => 2000 + year,
        _ => 1900 + year,
    };
    let mut at = [0; 5];
    for (place, slot) in at.iter_mut().enumerate() {
        *slot = part(century_digits + 2 * place, 2)?;
    }
    let [month, day, hour, minute, second] = at;
    Some((((days_from_1970(year, month, day) * 24 + hour) * 60 + minute) * 60 + second, rest))
}

/// Days of the Gregorian calendar; the year begins in March, so that the leap day is its last one.
fn days_from_1970(year: i64, month: i64, day: i64) -> i64 {
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let leap_days = year / 4 - year / 100 + year / 400;
    365 * year + leap_days + (153 * month + 2) / 5 + day - 1 - 719_468
}

fn from_base64(text: &str) -> Option<Vec<u8>> {
    let (mut bytes, mut bits, mut held) = (Vec::with_capacity(text.len() * 3 / 4), 0_u32, 0);
    for c in text.bytes().filter(|c| !c.is_ascii_whitespace() && *c != b'=') {
        let value = match c {
            b'A'..=b'Z' => c - b'A',
            b'a'..=b'z' => c - b'a' + 26,
            b'0'..=b'9' => c - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        bits = (bits << 6) | u32::from(value);
        held += 6;
        if held >= 8 {
            held -= 8;
            bytes.push((bits >> held) as u8);
            bits &= (1 << held) - 1;
        }
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn certificate(year: i32, month: u8, day: u8) -> String {
        let mut params = rcgen::CertificateParams::new(vec!["relay".to_owned()]).expect("a name");
        params.not_after = rcgen::date_time_ymd(year, month, day);
        let key = rcgen::KeyPair::generate().expect("a key");
        params.self_signed(&key).expect("signed").pem()
    }

    #[test]
    fn the_end_is_read_in_both_spellings_of_a_time() {
        assert_eq!(expiry(&certificate(2027, 3, 1)), Some(1_803_859_200));
        assert_eq!(expiry(&certificate(2028, 2, 29)), Some(1_835_395_200));
        assert_eq!(expiry(&certificate(2062, 1, 1)), Some(2_903_299_200), "four digits from 2050 on");
    }

    #[test]
    fn of_several_the_first_to_end_counts_and_what_is_none_does_not() {
        let chain = format!("some words\n{}{}", certificate(2040, 1, 1), certificate(2030, 1, 1));
        assert_eq!(expiry(&chain), Some(1_893_456_000));
        assert_eq!(expiry(""), None);
        let broken = "-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n";
        assert_eq!(expiry(broken), None);
        assert_eq!(expiry(&format!("{broken}{}", certificate(2030, 1, 1))), Some(1_893_456_000));
    }
}
