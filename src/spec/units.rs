//! Values with units as people write them: `1.0%`, `10m`.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A share between 0 and 1, written `1.5%` or `0.015`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Share(pub f64);

impl<'de> Deserialize<'de> for Share {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = Share;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a share such as 1% or 0.01")
            }
            fn visit_f64<E: de::Error>(self, v: f64) -> Result<Share, E> {
                if (0.0..=1.0).contains(&v) {
                    Ok(Share(v))
                } else {
                    Err(E::custom(format!("{v} is not a share between 0 and 1; write {v}% if per cent is meant")))
                }
            }
            fn visit_u64<E: de::Error>(self, v: u64) -> Result<Share, E> {
                self.visit_f64(v as f64)
            }
            fn visit_i64<E: de::Error>(self, v: i64) -> Result<Share, E> {
                self.visit_f64(v as f64)
            }
            fn visit_str<E: de::Error>(self, v: &str) -> Result<Share, E> {
                let number = v.trim().strip_suffix('%').and_then(|n| n.trim().parse::<f64>().ok());
                match number {
                    Some(n) if (0.0..=100.0).contains(&n) => Ok(Share(n / 100.0)),
                    Some(n) => Err(E::custom(format!("{n}% is not between 0% and 100%"))),
                    None => Err(E::custom(format!("\"{v}\" is not a share such as 1% or 0.01"))),
                }
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

impl Serialize for Share {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_f64(self.0)
    }
}

/// A loss of the metric that may not be exceeded: a share (`1.0%`, 0.01) or a number in the metric's own units.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct MaxDrop(pub f64);

impl<'de> Deserialize<'de> for MaxDrop {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = MaxDrop;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a drop such as 1.0%, or a number in the metric's units")
            }
            fn visit_f64<E: de::Error>(self, v: f64) -> Result<MaxDrop, E> {
                if v >= 0.0 && v.is_finite() {
                    Ok(MaxDrop(v))
                } else {
                    Err(E::custom(format!("{v} is not a drop: give a number from 0 up")))
                }
            }
            fn visit_u64<E: de::Error>(self, v: u64) -> Result<MaxDrop, E> {
                self.visit_f64(v as f64)
            }
            fn visit_i64<E: de::Error>(self, v: i64) -> Result<MaxDrop, E> {
                self.visit_f64(v as f64)
            }
            fn visit_str<E: de::Error>(self, v: &str) -> Result<MaxDrop, E> {
                let number = v.trim().strip_suffix('%').and_then(|n| n.trim().parse::<f64>().ok());
                number.map_or_else(|| Err(E::custom(format!("\"{v}\" is not a drop such as 1.0%"))), |n| self.visit_f64(n / 100.0))
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

impl Serialize for MaxDrop {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_f64(self.0)
    }
}

/// A length of time, written `90s`, `10m`, `8h`, `1d4h` or in seconds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Seconds(pub f64);

impl std::str::FromStr for Seconds {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let fail = || format!("\"{text}\" is not a length of time such as 90s, 10m, 8h or 1d4h");
        if let Ok(seconds) = text.trim().parse::<f64>() {
            return if seconds > 0.0 && seconds.is_finite() { Ok(Self(seconds)) } else { Err(fail()) };
        }
        let (mut total, mut number) = (0.0, String::new());
        for c in text.trim().chars() {
            let unit = match c.to_ascii_lowercase() {
                's' => 1.0,
                'm' => 60.0,
                'h' => 3600.0,
                'd' => 86400.0,
                _ => {
                    number.push(c);
                    continue;
                }
            };
            total += unit * number.parse::<f64>().map_err(|_| fail())?;
            number.clear();
        }
        if number.is_empty() && total > 0.0 && total.is_finite() { Ok(Self(total)) } else { Err(fail()) }
    }
}

impl<'de> Deserialize<'de> for Seconds {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = Seconds;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a length of time such as 10m")
            }
            fn visit_u64<E: de::Error>(self, v: u64) -> Result<Seconds, E> {
                v.to_string().parse().map_err(E::custom)
            }
            fn visit_f64<E: de::Error>(self, v: f64) -> Result<Seconds, E> {
                v.to_string().parse().map_err(E::custom)
            }
            fn visit_str<E: de::Error>(self, v: &str) -> Result<Seconds, E> {
                v.parse().map_err(E::custom)
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

impl Serialize for Seconds {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_f64(self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn share(text: &str) -> Result<f64, String> {
        serde_yaml::from_str::<Share>(text).map(|s| s.0).map_err(|e| e.to_string())
    }

    #[test]
    fn shares_are_read_with_and_without_the_per_cent_sign() {
        assert_eq!(share("1.0%"), Ok(0.01));
        assert_eq!(share("0.01"), Ok(0.01));
        assert!(share("5").unwrap_err().contains("5%"));
        assert!(share("120%").is_err());
        assert!(share("much").is_err());
    }

    #[test]
    fn times_are_read_in_all_units() {
        let seconds = |t: &str| t.parse::<Seconds>().map(|s| s.0);
        assert_eq!(seconds("90s"), Ok(90.0));
        assert_eq!(seconds("10m"), Ok(600.0));
        assert_eq!(seconds("1d4h"), Ok(100_800.0));
        assert_eq!(seconds("45"), Ok(45.0));
        assert!(seconds("10x").is_err() && seconds("-3").is_err() && seconds("").is_err() && seconds("0").is_err());
    }
}
