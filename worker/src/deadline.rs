//! Legal deadlines: the last day on which the law wants an erasure done, by the calendar of the law's own time zone.
//!
//! The rule: the day of the demand's arrival is not counted, a month ends on the day of the same number or, where there is none, on the
//! month's last, and the last day counts whole (Regulation (EEC, Euratom) 1182/71, Article 3; California Civil Code, section 10). That a
//! last day on a weekend or holiday may move the end is not used: what we call late is never later than what the law does.
//! It only computes, so nothing happens if we die in it.

use std::str::FromStr;

use chrono::{DateTime, Days, Months, NaiveDate, NaiveTime, Utc};
use chrono_tz::Tz;
use lethe_ledger::DueDay;
use serde::{Deserialize, Deserializer};

/// What a deadline is called that follows no law but a date of its requester's.
pub const OWN: &str = "own";
/// What a request calls it that no law has a date for it.
pub const NO_LAW: &str = "none";
/// The longest period that a law may be said to give, in days; a month counts as 31.
const LONGEST_DAYS: u32 = 3653;

/// So many calendar months or so many calendar days.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Period {
    /// Months by the calendar.
    Months(u32),
    /// Days by the calendar.
    Days(u32),
}

impl Period {
    /// The last day of the period that began with what happened on `day`.
    pub fn after(self, day: NaiveDate) -> NaiveDate {
        let last = match self {
            Period::Months(months) => day.checked_add_months(Months::new(months)),
            Period::Days(days) => day.checked_add_days(Days::new(u64::from(days))),
        };
        last.expect("a period of at most ten years after a day of ours")
    }
}

impl FromStr for Period {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is no period like \"1 month\" or \"45 days\"");
        let (number, unit) = text.trim().split_once(' ').ok_or_else(wrong)?;
        let number: u32 = number.parse().map_err(|_| wrong())?;
        let (period, days) = match unit.trim() {
            "month" | "months" => (Period::Months(number), number.saturating_mul(31)),
            "day" | "days" => (Period::Days(number), number),
            _ => return Err(wrong()),
        };
        match days {
            0 => Err(format!("`{text}` is nothing: a period is at least a day")),
            days if days > LONGEST_DAYS => Err(format!("`{text}` is longer than ten years")),
            _ => Ok(period),
        }
    }
}

impl std::fmt::Display for Period {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (number, unit) = match self {
            Period::Months(months) => (months, "month"),
            Period::Days(days) => (days, "day"),
        };
        write!(f, "{number} {unit}{}", if *number == 1 { "" } else { "s" })
    }
}

impl<'de> Deserialize<'de> for Period {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// A time zone by its IANA name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Zone(pub Tz);

impl FromStr for Zone {
    type Err = String;
    fn from_str(name: &str) -> Result<Self, String> {
        name.parse().map(Zone).map_err(|_| format!("`{name}` is no time zone like UTC or Europe/Berlin"))
    }
}

impl<'de> Deserialize<'de> for Zone {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

impl Zone {
    /// The day that it is there.
    pub fn day(self, at: DateTime<Utc>) -> NaiveDate {
        at.with_timezone(&self.0).date_naive()
    }

    /// The first instant of a day there: the later midnight's where the clock jumps over it, the earlier one where it comes twice.
    pub fn begin(self, day: NaiveDate) -> DateTime<Utc> {
        self.instant(day, NaiveTime::MIN)
    }

    /// When a clock there first shows this time on this day, or, where it never does, the first one after it.
    pub fn instant(self, day: NaiveDate, time: NaiveTime) -> DateTime<Utc> {
        let mut local = day.and_time(time);
        loop {
            if let Some(at) = local.and_local_timezone(self.0).earliest() {
                break at.to_utc();
            }
            // Jumped over; clocks have jumped by as little as a quarter of an hour, and on minutes only since they are set by law.
            local += chrono::TimeDelta::minutes(1);
        }
    }

    /// A last day there, with the instant at which it is over.
    pub fn last_day(self, on: NaiveDate) -> DueDay {
        DueDay { on, at: self.begin(on.succ_opt().expect("a day of ours")) }
    }
}

/// What a law says of the time to erase.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Law {
    /// From the demand's arrival.
    pub due: Period,
    /// How much further it may be moved, where the person was told within the first period.
    #[serde(default)]
    pub extension: Option<Period>,
    /// In whose days it is counted; by default in those of `due.zone`.
    #[serde(default)]
    pub zone: Option<Zone>,
}

impl Law {
    /// The last day for a demand that arrived on `day`, and the last one where it is extended.
    pub fn days(&self, zone: Zone, day: NaiveDate) -> (DueDay, Option<DueDay>) {
        let first = self.due.after(day);
        // From the first last day on: never later than the whole period counted at once.
        (zone.last_day(first), self.extension.map(|more| zone.last_day(more.after(first))))
    }
}

#[cfg(test)]
mod tests {
    use chrono::TimeDelta;
    use proptest::prelude::*;

    use super::*;

    fn day(text: &str) -> NaiveDate {
        text.parse().expect("a day")
    }

    fn gdpr() -> Law {
        Law { due: Period::Months(1), extension: Some(Period::Months(2)), zone: None }
    }

    fn zone(name: &str) -> Zone {
        name.parse().expect("a zone")
    }

    /// Received, last day, last day when extended.
    #[test]
    fn months_end_on_the_day_of_the_same_number_or_on_the_last() {
        for (received, first, extended) in [
            ("2026-03-05", "2026-04-05", "2026-06-05"),
            ("2026-08-31", "2026-09-30", "2026-11-30"),
            ("2026-01-31", "2026-02-28", "2026-04-28"),
            ("2028-01-31", "2028-02-29", "2028-04-29"),
            ("2028-01-29", "2028-02-29", "2028-04-29"),
            ("2027-12-31", "2028-01-31", "2028-03-31"),
            ("2026-11-30", "2026-12-30", "2027-02-28"),
        ] {
            let (due, more) = gdpr().days(zone("UTC"), day(received));
            assert_eq!((due.on, more.map(|due| due.on)), (day(first), Some(day(extended))), "{received}");
            assert_eq!(
                due.at.to_rfc3339(),
                format!("{}T00:00:00+00:00", day(first).succ_opt().unwrap()),
                "the last day counts whole"
            );
        }
        let ccpa = Law { due: Period::Days(45), extension: Some(Period::Days(45)), zone: None };
        let (due, more) = ccpa.days(zone("America/Los_Angeles"), day("2026-02-10"));
        assert_eq!((due.on, more.unwrap().on), (day("2026-03-27"), day("2026-05-11")));
        assert_eq!(due.at.to_rfc3339(), "2026-03-28T07:00:00+00:00", "in summer time by then");
    }

    #[test]
    fn a_day_begins_where_midnight_is_jumped_over_or_comes_twice() {
        // Lebanon's clocks go from 24:00 to 01:00 in spring, Cuba's from 01:00 back to 00:00 in autumn, Samoa left out a day.
        assert_eq!(zone("Asia/Beirut").begin(day("2026-03-29")).to_rfc3339(), "2026-03-28T22:00:00+00:00");
        assert_eq!(zone("America/Havana").begin(day("2026-11-01")).to_rfc3339(), "2026-11-01T04:00:00+00:00");
        assert_eq!(zone("Pacific/Apia").begin(day("2011-12-30")), zone("Pacific/Apia").begin(day("2011-12-31")));
    }

    #[test]
    fn a_period_or_zone_that_cannot_be_read_is_named() {
        for wrong in ["month", "1 week", "-1 days", "0 days", "200 months", "30d", ""] {
            let error = wrong.parse::<Period>().expect_err(wrong);
            assert!(error.contains(&format!("`{wrong}`")), "{error}");
        }
        assert_eq!("45  days".parse::<Period>().map(|period| period.to_string()), Ok("45 days".into()));
        assert!("Berlin".parse::<Zone>().unwrap_err().contains("Europe/Berlin"));
    }

    fn any_zone() -> impl Strategy<Value = Zone> {
        (0..chrono_tz::TZ_VARIANTS.len()).prop_map(|index| Zone(chrono_tz::TZ_VARIANTS[index]))
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]

        /// By walking: the deadline is over in the first instant at which a clock there no longer shows the last day, to the second, and
        /// that day is the one that the rule names.
        #[test]
        fn a_deadline_is_over_when_its_last_day_is_and_not_before(zone in any_zone(), seconds in 946_684_800_i64..2_524_608_000) {
            let received = DateTime::from_timestamp(seconds, 0).unwrap();
            let arrived = zone.day(received);
            for law in [gdpr(), Law { due: Period::Days(45), extension: Some(Period::Days(45)), zone: None }] {
                let (due, more) = law.days(zone, arrived);
                let more = more.unwrap();
                prop_assert!(zone.day(due.at) > due.on, "the last day is over");
                prop_assert!(zone.day(due.at - TimeDelta::seconds(1)) <= due.on, "and was not before");
                prop_assert!(received < due.at && due.at < more.at);
                match law.due {
                    Period::Days(days) => prop_assert_eq!((due.on - arrived).num_days(), i64::from(days)),
                    Period::Months(_) => {
                        use chrono::Datelike;
                        let months = |day: NaiveDate| day.year() * 12 + day.month0() as i32;
                        prop_assert_eq!(months(due.on), months(arrived) + 1);
                        let last = due.on.succ_opt().unwrap().day() == 1;
                        prop_assert!(due.on.day() == arrived.day() || (last && due.on.day() < arrived.day()));
                        // Never later than the whole period at once.
                        prop_assert!(more.on <= arrived.checked_add_months(Months::new(3)).unwrap());
                    }
                }
            }
        }

        /// Demands that came later are never due earlier.
        #[test]
        fn deadlines_keep_the_order_of_arrival(zone in any_zone(), seconds in 946_684_800_i64..2_524_608_000, later in 0_i64..8_000_000) {
            let of = |at: i64| gdpr().days(zone, zone.day(DateTime::from_timestamp(at, 0).unwrap())).0.at;
            prop_assert!(of(seconds) <= of(seconds + later));
        }
    }
}
