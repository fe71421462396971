//! Sizes as people write and read them: binary units, one letter.

/// The units, smallest first; each is 1024 times the one before it. `B` is 1.
const UNITS: [char; 7] = ['B', 'K', 'M', 'G', 'T', 'P', 'E'];

/// Why a text is not a size.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SizeError {
    /// Nothing but blanks.
    Empty,
    /// A minus sign in front.
    Negative(String),
    /// No digits where a number should be.
    NotANumber(String),
    /// Digits, then something that is no unit.
    UnknownUnit {
        /// What was typed.
        text: String,
        /// The part after the number.
        unit: String,
    },
    /// More than 64 bits can count.
    TooLarge(String),
    /// Not a whole number of bytes.
    Fraction(String),
    /// Zero, which is no size for anything.
    Zero(String),
}

impl std::fmt::Display for SizeError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        const KNOWN: &str = "bytes, or a number with K, M, G, T, P or E, where 1K is 1024 bytes";
        match self {
            SizeError::Empty => write!(f, "the size is empty: give {KNOWN}"),
            SizeError::Negative(text) => write!(f, "size {text:?} is negative: give {KNOWN}"),
            SizeError::NotANumber(text) => write!(f, "size {text:?} is not a number: give {KNOWN}"),
            SizeError::UnknownUnit { text, unit } => {
                write!(
                    f,
                    "size {text:?} has the unknown unit {unit:?}: give {KNOWN}"
                )
            }
            SizeError::TooLarge(text) => {
                write!(f, "size {text:?} is too large: the largest is below 16E")
            }
            SizeError::Fraction(text) => {
                write!(
                    f,
                    "size {text:?} is not a whole number of bytes: give {KNOWN}"
                )
            }
            SizeError::Zero(text) => write!(f, "size {text:?} is zero: give {KNOWN}"),
        }
    }
}

impl std::error::Error for SizeError {}

/// Bytes that `text` means: `4096`, `512M`, `1.5G`, `8GiB`. Units are binary, small letters are
/// as good as capitals, and `iB` may follow a unit. (`GB` is refused: to some it is 10⁹.)
pub fn parse_size(text: &str) -> Result<u64, SizeError> {
    let typed = text.trim();
    let own = || typed.to_string();
    if typed.is_empty() {
        return Err(SizeError::Empty);
    }
    if typed.starts_with(['-', '\u{2212}']) {
        return Err(SizeError::Negative(own()));
    }
    let digits_end = typed
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(typed.len());
    let (number, unit) = typed.split_at(digits_end);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let is_number = number.chars().any(|c| c.is_ascii_digit()) && !fraction.contains('.');
    if !is_number {
        return Err(SizeError::NotANumber(own()));
    }
    let unit = unit.trim();
    let Some(scale) = scale_of(unit) else {
        return Err(SizeError::UnknownUnit {
            text: own(),
            unit: unit.to_string(),
        });
    };

    // whole.fraction × scale in integers: the digits as one number, divided by 10^places.
    let fraction = fraction.trim_end_matches('0');
    let places = u32::try_from(fraction.len()).unwrap_or(u32::MAX);
    let digits = format!("{whole}{fraction}");
    let digits = digits.trim_start_matches('0');
    let value: u128 = match digits {
        "" => return Err(SizeError::Zero(own())),
        // 38 digits fit in 127 bits; the scale is applied checked.
        _ if digits.len() > 38 => return Err(SizeError::TooLarge(own())),
        _ => digits.parse().map_err(|_| SizeError::TooLarge(own()))?,
    };
    let scaled = value
        .checked_mul(scale)
        .ok_or_else(|| SizeError::TooLarge(own()))?;
    let divisor = 10u128
        .checked_pow(places)
        .ok_or_else(|| SizeError::Fraction(own()))?;
    if scaled % divisor != 0 {
        return Err(SizeError::Fraction(own()));
    }
    u64::try_from(scaled / divisor).map_err(|_| SizeError::TooLarge(own()))
}

/// What one of `unit` is in bytes.
fn scale_of(unit: &str) -> Option<u128> {
    if unit.is_empty() {
        return Some(1);
    }
    let mut letters = unit.chars();
    let letter = letters.next()?.to_ascii_uppercase();
    let power = UNITS.iter().position(|u| *u == letter)?;
    let rest = letters.as_str();
    if rest.is_empty() || (power > 0 && rest.eq_ignore_ascii_case("ib")) {
        Some(1 << (10 * power))
    } else {
        None
    }
}

/// `bytes` short enough for a column: `0B`, `512B`, `4K`, `1.5G`. At most one decimal, rounded,
/// and left out when it is zero.
pub fn format_size(bytes: u64) -> String {
    let mut power = 0;
    while power + 1 < UNITS.len() && bytes >> (10 * (power + 1)) != 0 {
        power += 1;
    }
    let tenths = tenths_of(bytes, power);
    // 1023.96 KiB rounds to 1024.0K, which is 1M.
    let (tenths, power) = if tenths >= 10_240 && power + 1 < UNITS.len() {
        (tenths_of(bytes, power + 1), power + 1)
    } else {
        (tenths, power)
    };
    match tenths % 10 {
        0 => format!("{}{}", tenths / 10, UNITS[power]),
        tenth => format!("{}.{tenth}{}", tenths / 10, UNITS[power]),
    }
}

/// `bytes` in tenths of the unit, rounded to nearest.
fn tenths_of(bytes: u64, power: usize) -> u128 {
    let unit = 1u128 << (10 * power);
    (u128::from(bytes) * 10 + unit / 2) / unit
}

/// A ratio for a column: two decimals, and a dash where there is nothing to divide by.
pub fn format_ratio(original: u64, stored: u64) -> String {
    if stored == 0 {
        "-".to_string()
    } else {
        format!("{:.2}", original as f64 / stored as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_in_binary_units() {
        for (text, bytes) in [
            ("1", 1),
            ("4096", 4096),
            ("4096B", 4096),
            ("1k", 1 << 10),
            ("512M", 512 << 20),
            ("8G", 8 << 30),
            ("8 GiB", 8 << 30),
            ("1.5G", 3 << 29),
            ("0.5K", 512),
            (".5K", 512),
            ("16T", 16 << 40),
            ("15E", 15 << 60),
            (" 2P ", 2 << 50),
        ] {
            assert_eq!(parse_size(text), Ok(bytes), "{text:?}");
        }
    }

    #[test]
    fn what_is_no_size_is_refused_by_its_reason() {
        type Reason = fn(&SizeError) -> bool;
        let cases: [(&str, Reason); 14] = [
            ("", |e| matches!(e, SizeError::Empty)),
            ("  ", |e| matches!(e, SizeError::Empty)),
            ("-1G", |e| matches!(e, SizeError::Negative(_))),
            ("G", |e| matches!(e, SizeError::NotANumber(_))),
            (".", |e| matches!(e, SizeError::NotANumber(_))),
            ("1.2.3G", |e| matches!(e, SizeError::NotANumber(_))),
            ("8Q", |e| matches!(e, SizeError::UnknownUnit { .. })),
            ("8GB", |e| matches!(e, SizeError::UnknownUnit { .. })),
            ("8BiB", |e| matches!(e, SizeError::UnknownUnit { .. })),
            ("0", |e| matches!(e, SizeError::Zero(_))),
            ("0.0G", |e| matches!(e, SizeError::Zero(_))),
            ("0.3B", |e| matches!(e, SizeError::Fraction(_))),
            ("16E", |e| matches!(e, SizeError::TooLarge(_))),
            ("99999999999999999999999999999999999999999999", |e| {
                matches!(e, SizeError::TooLarge(_))
            }),
        ];
        for (text, reason) in cases {
            let error = parse_size(text).expect_err(text);
            assert!(reason(&error), "{text:?}: {error:?}");
            let message = error.to_string();
            assert!(
                message.contains(text.trim()),
                "{message} does not name {text:?}"
            );
            assert!(!message.ends_with('.'), "{message}");
        }
        assert!(
            parse_size("8Q")
                .unwrap_err()
                .to_string()
                .contains("K, M, G, T, P or E")
        );
    }

    #[test]
    fn sizes_are_written_short_and_never_as_1024_of_a_unit() {
        for (bytes, text) in [
            (0, "0B"),
            (512, "512B"),
            (1023, "1023B"),
            (4096, "4K"),
            (1536, "1.5K"),
            (3 << 29, "1.5G"),
            ((1 << 20) - 1, "1M"),
            (8 << 30, "8G"),
            (u64::MAX, "16E"),
        ] {
            assert_eq!(format_size(bytes), text);
        }
        assert_eq!(format_ratio(300, 100), "3.00");
        assert_eq!(format_ratio(300, 0), "-");
    }
}
