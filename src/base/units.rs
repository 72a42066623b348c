//! Sizes and rates for people: decimal units, and the reading of sizes such as `64m`.

use crate::base::Error;
use crate::base::Result;

/// `1_234_567` as `1.23 MB` (decimal).
#[expect(clippy::cast_precision_loss, reason = "three digits are shown")]
pub fn human_bytes(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["B", "kB", "MB", "GB", "TB", "PB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 999.5 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    match unit {
        0 => format!("{bytes} B"),
        _ if value < 9.995 => format!("{value:.2} {}", UNITS[unit]),
        _ if value < 99.95 => format!("{value:.1} {}", UNITS[unit]),
        _ => format!("{value:.0} {}", UNITS[unit]),
    }
}

/// `1 file`, `2 files`.
pub fn counted(count: u64, what: &str) -> String {
    match count {
        1 => format!("1 {what}"),
        _ => format!("{count} {what}s"),
    }
}

/// `part` in percent of `whole`; 100 if the whole is empty.
#[expect(clippy::cast_precision_loss, reason = "a percentage for people")]
pub fn percent(part: u64, whole: u64) -> f64 {
    if whole == 0 {
        100.0
    } else {
        part as f64 * 100.0 / whole as f64
    }
}

/// Reads `1000`, `64k`, `32M`, `1.5GB`, `32MiB`: units of 1000 as printed, of 1024 with `i`, and of
/// 1024 for a bare letter, as mount options have it.
#[expect(
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    reason = "checked to be finite, not negative and below 2^63"
)]
pub fn parse_bytes(text: &str) -> Result<u64> {
    let wrong = || {
        Error::invalid(format!("`{text}` is not a size"))
            .hint("write a number with k, m or g, such as `64m`")
    };
    let text = text.trim();
    let digits = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let number: f64 = number.parse().map_err(|_not_a_number| wrong())?;
    let unit = unit.trim().to_ascii_lowercase();
    let factor: u64 = match unit.as_str() {
        "" | "b" => 1,
        "k" | "kib" => 1 << 10,
        "m" | "mib" => 1 << 20,
        "g" | "gib" => 1 << 30,
        "t" | "tib" => 1 << 40,
        "kb" => 1000,
        "mb" => 1_000_000,
        "gb" => 1_000_000_000,
        "tb" => 1_000_000_000_000,
        _ => return Err(wrong()),
    };
    let bytes = number * factor as f64;
    if !bytes.is_finite() || bytes >= 9.2e18 {
        return Err(wrong());
    }
    Ok(bytes as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_for_people() {
        let shown = [0, 999, 1000, 12_345, 999_600, 90_900_000].map(human_bytes);
        assert_eq!(
            shown,
            ["0 B", "999 B", "1.00 kB", "12.3 kB", "1.00 MB", "90.9 MB"]
        );
    }

    #[test]
    fn sizes_from_people() {
        assert_eq!(parse_bytes("64m").unwrap(), 64 << 20);
        assert_eq!(parse_bytes("1.5GB").unwrap(), 1_500_000_000);
        assert_eq!(parse_bytes("32 MiB").unwrap(), 32 << 20);
        for wrong in ["", "m", "-1", "1x", "nan", "9e99", "99999999t"] {
            assert!(parse_bytes(wrong).is_err(), "{wrong}");
        }
    }
}
