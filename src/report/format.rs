//! Numbers as people read them. Every report uses these, so that a figure looks the same wherever it stands.

/// What a metric's values are shown in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// A share of the samples: the value in per cent, a drop in percentage points.
    Points,
    /// Anything else: as it is.
    Raw,
}

impl Unit {
    /// The unit of a metric, by its name: `top1`, `top5` and `agreement` are shares of samples.
    pub fn of(metric: &str) -> Self {
        let top = metric.strip_prefix("top").is_some_and(|k| !k.is_empty() && k.bytes().all(|b| b.is_ascii_digit()));
        if top || metric == "agreement" { Self::Points } else { Self::Raw }
    }

    /// A drop on the scale it is shown in.
    pub fn scale(self, drop: f64) -> f64 {
        match self {
            Self::Points => drop * 100.0,
            Self::Raw => drop,
        }
    }

    /// A metric's value: `79.51 %` or `0.7951`.
    pub fn value(self, accuracy: f64) -> String {
        match self {
            Self::Points => format!("{} %", fixed(accuracy * 100.0, 2)),
            Self::Raw => significant(accuracy, 4),
        }
    }

    /// A drop without its unit: `0.63` or `0.0063`.
    pub fn drop(self, drop: f64) -> String {
        match self {
            Self::Points => fixed(drop * 100.0, 2),
            Self::Raw => significant(drop, 2),
        }
    }

    /// A drop in words: `0.63 points` or `0.0063`.
    pub fn drop_in_words(self, drop: f64) -> String {
        match self {
            Self::Points => format!("{} points", self.drop(drop)),
            Self::Raw => self.drop(drop),
        }
    }

    /// A limit or a difference in words, as short as it goes: `1 point`, `0.5 points`, `0.0031 points`.
    pub fn limit_in_words(self, drop: f64) -> String {
        let number = trimmed(&significant(self.scale(drop), 3));
        match self {
            Self::Points if number == "1" => "1 point".to_owned(),
            Self::Points => format!("{number} points"),
            Self::Raw => number,
        }
    }

    /// An interval: `0.21 … 0.98`; none where one end is missing.
    pub fn interval(self, low: Option<f64>, high: Option<f64>) -> Option<String> {
        Some(format!("{} … {}", self.drop(low?), self.drop(high?)))
    }
}

/// A number with so many decimals, a true minus sign and no minus before zero.
pub fn fixed(value: f64, decimals: usize) -> String {
    if !value.is_finite() {
        return "–".to_owned();
    }
    let text = format!("{value:.decimals$}");
    match text.strip_prefix('-') {
        Some(zero) if zero.bytes().all(|b| b == b'0' || b == b'.') => zero.to_owned(),
        Some(rest) => format!("−{rest}"),
        None => text,
    }
}

/// A number with at least so many significant digits; digits before the point are never dropped.
pub fn significant(value: f64, digits: i32) -> String {
    if value == 0.0 || !value.is_finite() {
        return fixed(value, 0);
    }
    let decimals = |value: f64| (digits - 1 - value.abs().log10().floor() as i32).clamp(0, 12);
    let unit = 10f64.powi(decimals(value));
    let rounded = (value * unit).round() / unit;
    let decimals = if rounded == 0.0 { 0 } else { decimals(rounded) };
    fixed(value, usize::try_from(decimals).unwrap_or(0))
}

/// The same number without zeros at the end of its decimals.
pub fn trimmed(number: &str) -> String {
    if number.contains('.') { number.trim_end_matches('0').trim_end_matches('.').to_owned() } else { number.to_owned() }
}

/// A size in decimal units: `512 B`, `81.2 kB`, `1.10 MB`.
pub fn bytes(bytes: u64) -> String {
    let value = bytes as f64;
    match bytes {
        0..1_000 => format!("{bytes} B"),
        1_000..999_500 => format!("{} kB", significant(value / 1e3, 3)),
        999_500..999_500_000 => format!("{} MB", significant(value / 1e6, 3)),
        _ => format!("{} GB", significant(value / 1e9, 3)),
    }
}

/// The unit that a column of sizes is best shown in, and its bytes.
pub fn unit_of_bytes(largest: u64) -> (&'static str, f64) {
    match largest {
        0..1_000_000 => ("kB", 1e3),
        1_000_000..1_000_000_000 => ("MB", 1e6),
        _ => ("GB", 1e9),
    }
}

/// Decimals that show the largest figure of a column with so many digits.
pub fn decimals(largest: f64, digits: i32) -> usize {
    let magnitude = if largest > 0.0 && largest.is_finite() { largest.log10().floor() as i32 } else { 0 };
    usize::try_from((digits - 1 - magnitude).clamp(0, 9)).unwrap_or(0)
}

/// A time given in milliseconds: `61.0 µs`, `0.61 ms`, `12.3 ms`, `1.20 s`.
pub fn millis(ms: f64) -> String {
    match ms.abs() {
        t if t >= 999.5 => format!("{} s", significant(ms / 1e3, 3)),
        t if t >= 0.0995 => format!("{} ms", significant(ms, 3)),
        _ => micros(ms * 1e3),
    }
}

/// A limit in milliseconds, as short as it goes: `0.55 ms`.
pub fn millis_limit(ms: f64) -> String {
    format!("{} ms", trimmed(&significant(ms, 4)))
}

/// A time given in microseconds: `0.42 µs`, `61.0 µs`, `1,203 µs`.
pub fn micros(us: f64) -> String {
    if us.abs() >= 999.5 { format!("{} µs", count(us.round() as u64)) } else { format!("{} µs", significant(us, 3)) }
}

/// A wall time: `12.3 s`, `4 min 10 s`, `1 h 26 min`.
pub fn duration(seconds: f64) -> String {
    let whole = seconds.max(0.0).round() as u64;
    match whole {
        0..60 => format!("{} s", trimmed(&fixed(seconds, 1))),
        60..3_600 => format!("{} min {} s", whole / 60, whole % 60),
        _ => format!("{} h {} min", count(whole / 3_600), whole % 3_600 / 60),
    }
}

/// A count with separators between thousands: `913,408`.
pub fn count(value: u64) -> String {
    let digits = value.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A count of things: `1 trial`, `412 trials`.
pub fn counted(value: u64, thing: &str) -> String {
    format!("{} {thing}{}", count(value), if value == 1 { "" } else { "s" })
}

/// A share of the float model's figure: `0.49`; a dash where there is nothing to divide by.
pub fn ratio(value: f64, whole: f64) -> String {
    if whole > 0.0 { fixed(value / whole, 2) } else { "–".to_owned() }
}

/// A change in per cent with its sign: `−73 %`, `+4 %`, `±0 %`.
pub fn change(value: f64, whole: f64) -> String {
    let percent = (value / whole - 1.0) * 100.0;
    match percent {
        p if !p.is_finite() => "–".to_owned(),
        p if p.abs() < 0.5 => "±0 %".to_owned(),
        p if p > 0.0 => format!("+{} %", fixed(p, 0)),
        p => format!("{} %", fixed(p, 0)),
    }
}

/// A level of confidence or a share: `95 %`, `99.5 %`.
pub fn percent(fraction: f64) -> String {
    format!("{} %", trimmed(&fixed(fraction * 100.0, 1)))
}

/// A size of a space given as a power of ten: `4,096`, `10²³`.
pub fn power_of_ten(log10: f64) -> String {
    if log10 < 6.0 {
        return count(10f64.powf(log10.max(0.0)).round() as u64);
    }
    let digits = (log10.round() as u64).to_string();
    let raised = digits.chars().map(|d| match d {
        '1' => '¹',
        '2' => '²',
        '3' => '³',
        '4' => '⁴',
        '5' => '⁵',
        '6' => '⁶',
        '7' => '⁷',
        '8' => '⁸',
        '9' => '⁹',
        _ => '⁰',
    });
    format!("10{}", raised.collect::<String>())
}

/// A name cut in its middle so that it has at most so many characters.
pub fn shortened(name: &str, most: usize) -> String {
    let letters: Vec<char> = name.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    if letters.len() <= most {
        return letters.into_iter().collect();
    }
    let tail = most * 2 / 3;
    let head = most.saturating_sub(tail + 1);
    letters[..head].iter().chain(&['…']).chain(&letters[letters.len() - tail..]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_shares_of_samples_are_shown_in_points() {
        assert_eq!([Unit::of("top1"), Unit::of("top5"), Unit::of("agreement")], [Unit::Points; 3]);
        assert_eq!([Unit::of("miou"), Unit::of("topology"), Unit::of("top"), Unit::of("")], [Unit::Raw; 4]);
    }

    #[test]
    fn drops_and_limits_read_as_people_write_them() {
        assert_eq!(Unit::Points.drop_in_words(0.0063), "0.63 points");
        assert_eq!(Unit::Points.limit_in_words(0.01), "1 point");
        assert_eq!(Unit::Points.limit_in_words(0.000031), "0.0031 points");
        assert_eq!(Unit::Points.limit_in_words(0.2), "20 points");
        assert_eq!(Unit::Raw.drop_in_words(0.0123), "0.012");
        assert_eq!(Unit::Raw.value(31.25), "31.25");
        assert_eq!(Unit::Points.value(0.7951), "79.51 %");
    }

    #[test]
    fn a_negative_number_has_a_true_minus_and_zero_has_none() {
        assert_eq!([fixed(-0.004, 2), fixed(-0.25, 2), fixed(f64::NAN, 2)], ["0.00", "−0.25", "–"]);
    }

    #[test]
    fn sizes_and_times_keep_three_digits_at_every_scale() {
        assert_eq!([bytes(999), bytes(81_234), bytes(999_600), bytes(3_882_357)], ["999 B", "81.2 kB", "1.00 MB", "3.88 MB"]);
        assert_eq!([millis(0.061), millis(0.61), millis(12.34), millis(1_203.0)], ["61.0 µs", "0.610 ms", "12.3 ms", "1.20 s"]);
        assert_eq!([micros(0.42), micros(1_203.4)], ["0.420 µs", "1,203 µs"]);
        assert_eq!([duration(12.34), duration(250.0), duration(5_170.2)], ["12.3 s", "4 min 10 s", "1 h 26 min"]);
    }

    #[test]
    fn a_column_has_one_unit_and_one_number_of_decimals() {
        assert_eq!([unit_of_bytes(81_234).0, unit_of_bytes(3_882_357).0], ["kB", "MB"]);
        assert_eq!([decimals(1.23, 4), decimals(812.0, 4), decimals(0.02, 4), decimals(0.0, 4)], [3, 1, 5, 3]);
    }

    #[test]
    fn counts_have_separators_and_great_spaces_an_exponent() {
        assert_eq!([count(0), count(999), count(1_000), count(913_408)], ["0", "999", "1,000", "913,408"]);
        assert_eq!([power_of_ten(3.612_36), power_of_ten(23.4), power_of_ten(0.0)], ["4,096", "10²³", "1"]);
    }

    #[test]
    fn changes_say_their_direction() {
        assert_eq!([change(27.0, 100.0), change(104.0, 100.0), change(100.1, 100.0), change(1.0, 0.0)], ["−73 %", "+4 %", "±0 %", "–"]);
    }

    #[test]
    fn a_long_name_is_cut_in_its_middle() {
        assert_eq!(shortened("conv", 8), "conv");
        assert_eq!(shortened("features.denseblock1.conv2", 12), "fea…1.conv2"[..].replace("…1", "…k1"));
        assert_eq!(shortened("features.denseblock1.conv2", 12).chars().count(), 12);
    }
}
