//! The pause that a server asks for.

use std::time::Duration;

use chrono::{DateTime, NaiveDateTime, Utc};

/// The longest pause that a server may ask for.
const LONGEST_PAUSE: Duration = Duration::from_secs(300);

/// The obsolete forms of a date (RFC 9110, section 5.6.7): that of RFC 850, and that of C's `asctime`.
const OBSOLETE: [&str; 2] = ["%A, %d-%b-%y %H:%M:%S GMT", "%a %b %e %H:%M:%S %Y"];

/// Reads a `Retry-After` header (RFC 9110, section 10.2.3): seconds, also with a fraction, or a date, which is compared with
/// `now`. A time that is past is no pause, and a long one is cut. `None` if the header is neither.
pub fn pause(header: &str, now: DateTime<Utc>) -> Option<Duration> {
    let header = header.trim();
    if let Ok(seconds) = header.parse::<f64>() {
        let seconds = seconds.clamp(0.0, LONGEST_PAUSE.as_secs_f64());
        return (!seconds.is_nan()).then(|| Duration::from_secs_f64(seconds));
    }
    // A date in the past has no duration until it.
    let until = (date(header)? - now).to_std().unwrap_or_default();
    Some(until.min(LONGEST_PAUSE))
}

/// Reads an HTTP date, which is always in UTC.
fn date(text: &str) -> Option<DateTime<Utc>> {
    let obsolete = |form: &&str| NaiveDateTime::parse_from_str(text, form).ok().map(|date| date.and_utc());
    match DateTime::parse_from_rfc2822(text) {
        Ok(date) => Some(date.with_timezone(&Utc)),
        Err(_) => OBSOLETE.iter().find_map(obsolete),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Ten seconds before the date of RFC 9110's examples, 784,111,777 s after 1970.
    fn now() -> DateTime<Utc> {
        DateTime::from_timestamp(784_111_767, 0).unwrap()
    }

    #[test]
    fn seconds_may_have_a_fraction() {
        for (header, seconds) in
            [("0", 0.0), ("7", 7.0), ("2.5", 2.5), (" 1 ", 1.0), ("-3", 0.0), ("1e9", 300.0)]
        {
            assert_eq!(pause(header, now()), Some(Duration::from_secs_f64(seconds)), "{header}");
        }
    }

    #[test]
    fn dates_are_read_in_all_forms() {
        for header in
            ["Sun, 06 Nov 1994 08:49:37 GMT", "Sunday, 06-Nov-94 08:49:37 GMT", "Sun Nov  6 08:49:37 1994"]
        {
            assert_eq!(pause(header, now()), Some(Duration::from_secs(10)), "{header}");
            let later = DateTime::from_timestamp(784_111_800, 0).unwrap();
            assert_eq!(pause(header, later), Some(Duration::ZERO), "{header}");
        }
        assert_eq!(pause("Sun, 06 Nov 2044 08:49:37 GMT", now()), Some(LONGEST_PAUSE));
    }

    #[test]
    fn anything_else_asks_for_nothing() {
        for header in ["", "soon", "nan", "Sun, 06 Nov", "1;2"] {
            assert_eq!(pause(header, now()), None, "{header}");
        }
    }
}
