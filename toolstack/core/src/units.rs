//! Times and sizes, as numbers of reports and as text.

use std::time::Duration;

/// A duration in milliseconds, rounded to a microsecond.
pub fn ms(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e6).round() / 1e3
}

/// A size in bytes as text, in the largest binary unit of which it has at least one.
pub fn bytes(count: u64) -> String {
    const LARGER: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    let (mut value, mut text) = (count as f64, format!("{count} B"));
    for unit in LARGER {
        if value < 1024.0 {
            break;
        }
        value /= 1024.0;
        text = format!("{value:.1} {unit}");
    }
    text
}

/// A time in milliseconds as text, in seconds from one second on.
pub fn seconds(ms: f64) -> String {
    if ms < 1000.0 { format!("{ms:.0} ms") } else { format!("{:.1} s", ms / 1e3) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_times_read_well() {
        assert_eq!(bytes(1023), "1023 B");
        assert_eq!(bytes(1024), "1.0 KiB");
        assert_eq!(bytes(35 << 20), "35.0 MiB");
        assert_eq!(bytes(5 << 50), "5120.0 TiB");
        assert_eq!(seconds(12.4), "12 ms");
        assert_eq!(seconds(12_400.0), "12.4 s");
    }
}
