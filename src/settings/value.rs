//! A value as a layer gives it, and how text becomes durations, sizes and the like.

use std::time::Duration;

use actix_web::http::{StatusCode, Uri};
use config::ValueKind;

/// One scalar or a list of them, as text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Given {
    One(String),
    Many(Vec<String>),
}

impl Given {
    /// `None` for a table, or for nothing.
    pub(super) fn of(kind: &ValueKind) -> Option<Self> {
        match kind {
            ValueKind::Array(items) => {
                let scalar = |item: &config::Value| match Self::of(&item.kind) {
                    Some(Self::One(text)) => Some(text),
                    _ => None,
                };
                items.iter().map(scalar).collect::<Option<_>>().map(Self::Many)
            }
            ValueKind::Table(_) | ValueKind::Nil => None,
            scalar => Some(Self::One(scalar.to_string())),
        }
    }

    pub(super) fn one(&self) -> Option<&str> {
        match self {
            Self::One(text) => Some(text.trim()),
            Self::Many(_) => None,
        }
    }

    /// The items of a list; text is split at commas.
    pub(super) fn items(&self) -> Vec<&str> {
        match self {
            Self::One(text) => text.split(',').map(str::trim).filter(|item| !item.is_empty()).collect(),
            Self::Many(items) => items.iter().map(|item| item.trim()).collect(),
        }
    }
}

impl std::fmt::Display for Given {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::One(text) => f.write_str(text),
            Self::Many(items) => f.write_str(&items.join(",")),
        }
    }
}

/// The values that the settings of statuses accept.
pub(super) const STATUS: &str = "a status from 200 to 599 that may have a body (not 204, 205, 304), or none";

/// Whether a replay or a problem can have this status.
pub(super) fn may_carry_body(status: StatusCode) -> bool {
    (200..600).contains(&status.as_u16()) && !matches!(status.as_u16(), 204 | 205 | 304)
}

pub(super) fn is_absolute_url(text: &str) -> bool {
    text.parse::<Uri>().is_ok_and(|uri| uri.scheme().is_some())
}

/// Splits `12.5kB` into its number and its unit.
fn number_and_unit(text: &str) -> Option<(f64, &str)> {
    let split = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let number = number.parse::<f64>().ok().filter(|number| number.is_finite())?;
    Some((number, unit.trim()))
}

/// Seconds (`0.1`) or text (`24h`, `1.5m`, `500ms`).
pub(super) fn duration(text: &str) -> Option<Duration> {
    let (number, unit) = number_and_unit(text)?;
    let seconds = match unit {
        "" | "s" | "sec" => 1.0,
        "us" | "µs" => 1e-6,
        "ms" => 1e-3,
        "m" | "min" => 60.0,
        "h" => 3600.0,
        "d" => 86_400.0,
        _ => return None,
    };
    // At most 100 years, so that sums with the time of day can't overflow.
    Duration::try_from_secs_f64(number * seconds).ok().filter(|d| *d <= Duration::from_secs(100 * 366 * 86_400))
}

/// Bytes (`1048576`) or text (`1MiB`, `500 kB`).
pub(super) fn size(text: &str) -> Option<usize> {
    let (number, unit) = number_and_unit(text)?;
    let bytes: f64 = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 1.0,
        "k" | "kib" => 1024.0,
        "kb" => 1e3,
        "m" | "mib" => 1_048_576.0,
        "mb" => 1e6,
        "g" | "gib" => 1_073_741_824.0,
        "gb" => 1e9,
        _ => return None,
    };
    let size = number * bytes;
    // Below 2^53 whole numbers are exact.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "checked to be whole, and parsed without a sign"
    )]
    (size.fract() == 0.0 && size < 9e15).then_some(size as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_seconds_or_text() {
        for (text, millis) in [
            ("0.1", 100),
            ("0", 0),
            ("24h", 86_400_000),
            ("500ms", 500),
            ("1.5m", 90_000),
            ("2d", 172_800_000),
            ("3 s", 3000),
        ] {
            assert_eq!(duration(text), Some(Duration::from_millis(millis)), "{text}");
        }
        for text in ["", "-1", "abc", "1y", "h", "1e400", "inf", "nan", "1h30m", "1.2.3", "999999999d"] {
            assert_eq!(duration(text), None, "{text}");
        }
    }

    #[test]
    fn sizes_are_bytes_or_text() {
        for (text, bytes) in
            [("1MiB", 1 << 20), ("1048576", 1 << 20), ("2 kB", 2000), ("0", 0), ("1.5KiB", 1536), ("1g", 1 << 30)]
        {
            assert_eq!(size(text), Some(bytes), "{text}");
        }
        for text in ["", "-1", "1.5", "MiB", "1TB", "1 MiB MiB", "99999999999999999999"] {
            assert_eq!(size(text), None, "{text}");
        }
    }
}
