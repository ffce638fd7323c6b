//! A rate: so many in a second, a minute or an hour.

use std::{fmt, str::FromStr, time::Duration};

/// The values that settings of rates accept.
pub(super) const RATE_OR_NONE: &str = "a rate such as 10/s, 600/m or 5000/h, at most 1000000, or none";

/// A rate; setting `limits.fresh_per_principal`. Its number is also the burst: so many may come at once.
///
/// ```
/// use actix_idempotency::settings::Rate;
///
/// let rate: Rate = "600/m".parse().unwrap();
/// assert_eq!(rate.to_string(), "600/m");
/// assert!("0/m".parse::<Rate>().is_err());
/// ```
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    number: u32,
    unit: Unit,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Unit {
    Second,
    Minute,
    Hour,
}

impl Rate {
    const MOST: u32 = 1_000_000;

    /// How many may come at once.
    pub(crate) const fn burst(self) -> u32 {
        self.number
    }

    /// The time in which that many may come again.
    pub(crate) const fn period(self) -> Duration {
        Duration::from_secs(match self.unit {
            Unit::Second => 1,
            Unit::Minute => 60,
            Unit::Hour => 60 * 60,
        })
    }
}

/// The text is no rate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a rate is a number from 1 to 1000000 and `/s`, `/m` or `/h`, such as `600/m`")]
pub struct ParseRateError;

impl FromStr for Rate {
    type Err = ParseRateError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (number, unit) = text.split_once('/').ok_or(ParseRateError)?;
        // `parse` takes a sign, too.
        let is_number = number.bytes().all(|byte| byte.is_ascii_digit());
        let number = number.parse().ok().filter(|number| is_number && (1..=Self::MOST).contains(number));
        let unit = match unit {
            "s" => Unit::Second,
            "m" => Unit::Minute,
            "h" => Unit::Hour,
            _ => return Err(ParseRateError),
        };
        Ok(Self { number: number.ok_or(ParseRateError)?, unit })
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit = match self.unit {
            Unit::Second => "s",
            Unit::Minute => "m",
            Unit::Hour => "h",
        };
        write!(f, "{}/{unit}", self.number)
    }
}

/// As `Display`.
impl fmt::Debug for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
