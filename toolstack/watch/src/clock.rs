//! The time, as it is put behind the name of a domain that is kept.

use std::time::{SystemTime, UNIX_EPOCH};

const DAY: u64 = 24 * 60 * 60;

/// `-20261201T1159Z`, as xl writes it (xl_vmcontrol.c: preserve_domain).
pub fn suffix(now: SystemTime) -> String {
    let seconds = now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let (year, month, day) = date(seconds / DAY);
    let (hour, minute) = (seconds % DAY / 3600, seconds % 3600 / 60);
    format!("-{year:04}{month:02}{day:02}T{hour:02}{minute:02}Z")
}

/// Year, month and day of the Gregorian calendar, so many days after the first of January 1970.
fn date(mut days: u64) -> (u64, u64, u64) {
    let mut year = 1970;
    while days >= days_of(year) {
        days -= days_of(year);
        year += 1;
    }
    let february = days_of(year) - 365 + 28;
    let months = [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let mut month = 1;
    for length in months {
        if days < length {
            break;
        }
        days -= length;
        month += 1;
    }
    (year, month, days + 1)
}

fn days_of(year: u64) -> u64 {
    let leap = year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    365 + u64::from(leap)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    /// The dates are those of `date --utc --date=@SECONDS`.
    #[test]
    fn the_calendar_is_the_systems() {
        for (seconds, wanted) in [
            (0, "-19700101T0000Z"),
            (951_782_399, "-20000228T2359Z"),
            (951_868_740, "-20000229T2359Z"),
            (1_709_251_199, "-20240229T2359Z"),
            (1_735_689_599, "-20241231T2359Z"),
            (1_796_126_340, "-20261201T1159Z"),
            (4_107_542_400, "-21000301T0000Z"),
        ] {
            let at = UNIX_EPOCH + Duration::from_secs(seconds);
            assert_eq!(suffix(at), wanted, "{seconds}");
        }
    }
}
