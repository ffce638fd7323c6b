//! The set of statuses whose responses are stored.

use std::fmt;

use actix_web::http::StatusCode;

use super::Profile;

/// A set of statuses; setting `storage.store_on_statuses`.
///
/// ```
/// use actix_idempotency::settings::Statuses;
/// use actix_web::http::StatusCode;
///
/// let statuses: Statuses = "2xx, 400-404, !401".parse().unwrap();
/// assert!(statuses.contains(StatusCode::NOT_FOUND));
/// assert!(!statuses.contains(StatusCode::UNAUTHORIZED));
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct Statuses {
    /// Bit `n` is status `n`; 100 to 599.
    bits: [u64; 10],
}

impl Statuses {
    pub(super) fn of(profile: Profile) -> Self {
        const IETF: &str = "2xx,302,303,4xx,!401,!403,!407,!408,!421,!423,!425,!429";
        match profile {
            Profile::Default => "200-207".parse(),
            Profile::Ietf => IETF.parse(),
            Profile::Stripe => format!("{IETF},5xx").parse(),
            Profile::StripeV2 => "2xx,302,303".parse(),
        }
        .expect("the profiles' own lists are well-formed")
    }

    /// Whether responses of this status are stored. 1xx and 304 never are, whatever the list says.
    #[must_use]
    pub fn contains(&self, status: StatusCode) -> bool {
        let status = usize::from(status.as_u16());
        status < 640 && self.bits[status / 64] >> (status % 64) & 1 == 1
    }

    /// Whether no response is stored.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.bits == [0; 10]
    }

    fn set(&mut self, range: std::ops::RangeInclusive<u16>, to: bool) {
        for status in range.map(usize::from) {
            let bit = 1 << (status % 64);
            if to && status >= 200 && status != 304 {
                self.bits[status / 64] |= bit;
            } else {
                self.bits[status / 64] &= !bit;
            }
        }
    }

    /// Applies items in their order, so that a later `!401` removes 401 from an earlier `4xx`.
    pub(super) fn of_items<'a>(items: impl IntoIterator<Item = &'a str>) -> Option<Self> {
        let mut statuses = Self::default();
        for item in items {
            let item = item.trim();
            let (to, item) = item.strip_prefix('!').map_or((true, item), |rest| (false, rest));
            statuses.set(range(item)?, to);
        }
        Some(statuses)
    }
}

fn range(item: &str) -> Option<std::ops::RangeInclusive<u16>> {
    let status = |text: &str| text.parse::<u16>().ok().filter(|status| (200..=599).contains(status));
    if let Some(class) = item.strip_suffix("xx") {
        let class = class.parse::<u16>().ok().filter(|class| (2..=5).contains(class))?;
        return Some(class * 100..=class * 100 + 99);
    }
    match item.split_once('-') {
        Some((from, to)) => Some(status(from.trim())?..=status(to.trim())?).filter(|range| !range.is_empty()),
        None => status(item).map(|status| status..=status),
    }
}

/// The text is no list of statuses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a list of statuses is made of `201`, `200-207`, `2xx` and `!401`")]
pub struct ParseStatusesError;

impl std::str::FromStr for Statuses {
    type Err = ParseStatusesError;

    fn from_str(list: &str) -> Result<Self, Self::Err> {
        let items = list.split(',').filter(|item| !item.trim().is_empty());
        Self::of_items(items).ok_or(ParseStatusesError)
    }
}

impl FromIterator<StatusCode> for Statuses {
    fn from_iter<I: IntoIterator<Item = StatusCode>>(statuses: I) -> Self {
        let mut set = Self::default();
        for status in statuses {
            let status = status.as_u16();
            if status < 600 {
                set.set(status..=status, true);
            }
        }
        set
    }
}

impl fmt::Debug for Statuses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all = (100..600).filter(|status| StatusCode::from_u16(*status).is_ok_and(|status| self.contains(status)));
        f.debug_set().entries(all).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(statuses: &Statuses) -> Vec<u16> {
        (100..600).filter(|s| statuses.contains(StatusCode::from_u16(*s).unwrap())).collect()
    }

    #[test]
    fn items_apply_in_their_order() {
        assert_eq!(list(&"200-207".parse().unwrap()), (200..=207).collect::<Vec<_>>());
        assert_eq!(list(&"201, 3xx, !300-302, !303-399".parse().unwrap()), [201]);
        assert!(list(&"5xx,!5xx".parse().unwrap()).is_empty());
        assert!(list(&"".parse().unwrap()).is_empty());
    }

    #[test]
    fn nonsense_is_refused() {
        for text in ["abc", "99", "600", "1xx", "6xx", "207-200", "200-", "-200", "!!200", "20x"] {
            assert!(text.parse::<Statuses>().is_err(), "{text}");
        }
    }

    #[test]
    fn not_modified_is_never_stored() {
        assert!(!"3xx".parse::<Statuses>().unwrap().contains(StatusCode::NOT_MODIFIED));
    }
}
