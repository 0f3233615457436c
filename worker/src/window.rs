//! The hours at which a store may be read and erased at length, by the clocks of a time zone.
//!
//! The rule: a window that is closed says when it opens next; hours that the clock jumps over are not waited for, hours that come twice
//! count twice. It only computes, so nothing happens if we die in it.

use std::str::FromStr;

use chrono::{DateTime, Datelike, Days, NaiveTime, TimeDelta, Utc, Weekday};
use serde::{Deserialize, Deserializer};

use crate::deadline::Zone;

/// What is written, for messages.
const EXAMPLE: &str = "\"22:00-06:00\" or \"Mon-Fri 20:00-06:00, Sat-Sun 00:00-24:00\"";
/// Minutes of a day.
const DAY: u32 = 24 * 60;

/// Some hours of some days of the week; hours past midnight belong to the day on which they begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Hours {
    /// Monday first.
    days: [bool; 7],
    /// Minutes since midnight.
    from: u32,
    /// Minutes since that midnight, at most a day after `from`.
    to: u32,
}

/// When a store may be read and erased at length; always, where no hours are named.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Window(Vec<Hours>);

impl FromStr for Window {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
        parts
            .map(|part| hours(part).ok_or_else(|| format!("`{part}` is no window like {EXAMPLE}")))
            .collect::<Result<_, _>>()
            .map(Window)
    }
}

impl<'de> Deserialize<'de> for Window {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

fn hours(text: &str) -> Option<Hours> {
    let (days, hours) = match text.split_once(' ') {
        Some((days, hours)) => (self::days(days)?, hours.trim()),
        None => ([true; 7], text),
    };
    let (from, to) = hours.split_once('-')?;
    let (from, to) = (minutes(from)?, minutes(to)?);
    let to = if to <= from { to + DAY } else { to };
    (from < DAY && to <= from + DAY).then_some(Hours { days, from, to })
}

fn days(text: &str) -> Option<[bool; 7]> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let place = |name: &str| name.parse::<Weekday>().ok().map(|day| day.num_days_from_monday() as usize);
    let (mut day, last) = (place(first)?, place(last)?);
    let mut days = [false; 7];
    loop {
        days[day] = true;
        if day == last {
            return Some(days);
        }
        day = (day + 1) % 7;
    }
}

fn minutes(text: &str) -> Option<u32> {
    let (hours, minutes) = text.trim().split_once(':')?;
    let number = |text: &str| (text.len() == 2).then(|| text.parse::<u32>().ok()).flatten();
    let (hours, minutes) = (number(hours)?, number(minutes)?);
    (hours < 24 && minutes < 60 || (hours, minutes) == (24, 0)).then_some(hours * 60 + minutes)
}

impl Window {
    /// Whether it is never closed.
    pub fn is_always_open(&self) -> bool {
        self.0.is_empty()
    }

    /// Until when it stays open, where it is open at `at`.
    pub fn closes(&self, zone: Zone, at: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let mut until = None;
        // Hours that follow one another are one opening.
        while let Some((_, to)) = self.around(zone, at).into_iter().find(|(from, to)| {
            let now = until.unwrap_or(at);
            *from <= now && now < *to
        }) {
            until = Some(to);
            if to - at > TimeDelta::days(1) {
                break;
            }
        }
        until
    }

    /// When it is open first, from `at` on.
    pub fn opens(&self, zone: Zone, at: DateTime<Utc>) -> DateTime<Utc> {
        if self.is_always_open() || self.closes(zone, at).is_some() {
            return at;
        }
        self.around(zone, at).into_iter().map(|(from, _)| from).filter(|from| *from > at).min().unwrap_or(at)
    }

    /// Every opening that touches the days around `at`, as instants.
    fn around(&self, zone: Zone, at: DateTime<Utc>) -> Vec<(DateTime<Utc>, DateTime<Utc>)> {
        let today = zone.day(at);
        let first = today.checked_sub_days(Days::new(2)).unwrap_or(today);
        let time = |day: chrono::NaiveDate, minutes: u32| {
            let day = day.checked_add_days(Days::new(u64::from(minutes / DAY))).unwrap_or(day);
            let time = NaiveTime::from_num_seconds_from_midnight_opt(minutes % DAY * 60, 0).unwrap_or(NaiveTime::MIN);
            zone.instant(day, time)
        };
        // A week and a day on both sides: every day of the week is among them.
        let days = first.iter_days().take(11);
        let openings = days.flat_map(|day| {
            let weekday = day.weekday().num_days_from_monday() as usize;
            self.0.iter().filter(move |hours| hours.days[weekday]).map(move |hours| (time(day, hours.from), time(day, hours.to)))
        });
        openings.filter(|(from, to)| from < to).collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn window(text: &str) -> Window {
        text.parse().expect("a window")
    }

    fn at(text: &str) -> DateTime<Utc> {
        text.parse().expect("an instant")
    }

    #[test]
    fn hours_past_midnight_belong_to_the_day_on_which_they_begin() {
        let berlin: Zone = "Europe/Berlin".parse().unwrap();
        let nights = window("Mon-Fri 22:00-06:00, Sun 00:00-24:00");
        // 2026-06-05 is a Friday; in summer Berlin is two hours ahead.
        assert_eq!(
            nights.closes(berlin, at("2026-06-05T20:00:00Z")),
            Some(at("2026-06-06T04:00:00Z")),
            "from Friday into Saturday"
        );
        assert_eq!(nights.closes(berlin, at("2026-06-06T20:30:00Z")), None, "Saturday night is not named");
        assert_eq!(nights.opens(berlin, at("2026-06-06T20:30:00Z")), at("2026-06-06T22:00:00Z"), "Sunday is, whole");
        assert_eq!(nights.opens(berlin, at("2026-06-05T12:00:00Z")), at("2026-06-05T20:00:00Z"));
        // In winter the same hours are an hour later.
        assert_eq!(nights.opens(berlin, at("2026-01-05T12:00:00Z")), at("2026-01-05T21:00:00Z"));
    }

    #[test]
    fn hours_that_follow_one_another_are_one_opening() {
        let utc: Zone = "UTC".parse().unwrap();
        let both = window("20:00-24:00, 00:00-02:00");
        assert_eq!(both.closes(utc, at("2026-06-05T21:00:00Z")), Some(at("2026-06-06T02:00:00Z")));
        assert_eq!(window("").closes(utc, at("2026-06-05T21:00:00Z")), None);
        assert!(window("").is_always_open());
    }

    #[test]
    fn a_window_that_cannot_be_read_is_named() {
        for wrong in ["22-06", "25:00-06:00", "Mo 22:00-06:00x", "Foo 22:00-06:00", "22:00", "24:00-24:00"] {
            assert!(wrong.parse::<Window>().unwrap_err().contains(&format!("`{wrong}`")), "{wrong}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(500))]

        /// By walking minute by minute: it is open when a clock there shows hours that are named, and opens at the first such minute.
        #[test]
        fn a_window_opens_at_the_first_minute_that_its_clock_shows(
            index in 0..chrono_tz::TZ_VARIANTS.len(), seconds in 946_684_800_i64..2_145_916_800, from in 0_u32..24, length in 1_u32..20,
        ) {
            let zone = Zone(chrono_tz::TZ_VARIANTS[index]);
            let to = (from + length) % 24;
            let window = window(&format!("{from:02}:00-{to:02}:00"));
            let began = DateTime::from_timestamp(seconds - seconds % 60, 0).unwrap();
            let shows = |at: DateTime<Utc>| {
                use chrono::Timelike;
                let hour = at.with_timezone(&zone.0).hour();
                (hour + 24 - from) % 24 < length
            };
            let mut first = began;
            while !shows(first) {
                first += TimeDelta::minutes(1);
            }
            let opens = window.opens(zone, began);
            // Where clocks are set back over its edge, the hours count from the first time that they are shown; otherwise to the minute.
            let still = zone.0;
            let offset = |at: DateTime<Utc>| { use chrono::Offset; at.with_timezone(&still).offset().fix() };
            if offset(began - TimeDelta::days(1)) == offset(began + TimeDelta::days(2)) {
                prop_assert_eq!(opens, first);
            } else {
                prop_assert!((opens - first).abs() <= TimeDelta::hours(24));
            }
            prop_assert!(opens >= began && window.closes(zone, opens).is_some());
        }
    }
}
