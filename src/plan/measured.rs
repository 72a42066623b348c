//! A figure that was measured, or the reason why it was not.

use std::fmt;

use serde::Deserialize;
use serde::Deserializer;
use serde::Serialize;
use serde::Serializer;
use serde::de::DeserializeOwned;
use serde::de::Error as _;
use serde::ser::SerializeStruct;

use crate::base::units;

/// What a probe gave. There is no value in place of one that is not there: whoever reads it says
/// what becomes of that.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Measured<T> {
    /// It was measured.
    Value(T),
    /// It was not, for this reason: words that go on after "not measured: ".
    Not(String),
}

impl<T> Measured<T> {
    /// Not measured, as `reason` says.
    pub fn not(reason: impl Into<String>) -> Self {
        Self::Not(reason.into())
    }

    /// What is there, or the reason why nothing is.
    pub fn or_not(value: Option<T>, reason: impl Into<String>) -> Self {
        value.map_or_else(|| Self::not(reason), Self::Value)
    }

    /// The figure, if there is one.
    pub fn value(&self) -> Option<&T> {
        match self {
            Self::Value(value) => Some(value),
            Self::Not(_) => None,
        }
    }

    /// Why there is none.
    pub fn why_not(&self) -> Option<&str> {
        match self {
            Self::Value(_) => None,
            Self::Not(reason) => Some(reason),
        }
    }

    /// What follows from it; nothing follows from what was not measured.
    pub fn map<U>(self, follows: impl FnOnce(T) -> U) -> Measured<U> {
        self.and_then(|value| Measured::Value(follows(value)))
    }

    /// The same, where it may not follow.
    pub fn and_then<U>(self, follows: impl FnOnce(T) -> Measured<U>) -> Measured<U> {
        match self {
            Self::Value(value) => follows(value),
            Self::Not(reason) => Measured::Not(reason),
        }
    }
}

impl<T: fmt::Display> fmt::Display for Measured<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Value(value) => value.fmt(f),
            Self::Not(reason) => write!(f, "not measured: {reason}"),
        }
    }
}

/// What a figure is of.
pub trait Quantity: Serialize + DeserializeOwned {
    /// Its unit, as it is written.
    const UNIT: &'static str;

    /// Whether a probe can have given it.
    fn is_possible(&self) -> bool;
}

/// `{"value": 5, "unit": "bytes"}` or `{"not_measured": "no model was given"}`.
impl<T: Quantity> Serialize for Measured<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let is_there = self.value().is_some();
        let mut object = serializer.serialize_struct("Measured", 1 + usize::from(is_there))?;
        match self {
            Self::Value(value) => {
                object.serialize_field("value", value)?;
                object.serialize_field("unit", T::UNIT)?;
            }
            Self::Not(reason) => object.serialize_field("not_measured", reason)?,
        }
        object.end()
    }
}

/// The two forms in JSON.
#[derive(Deserialize)]
#[serde(untagged)]
enum Form<T> {
    Value { value: T, unit: String },
    Not { not_measured: String },
}

impl<'de, T: Quantity> Deserialize<'de> for Measured<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match Form::<T>::deserialize(deserializer)? {
            Form::Value { value, unit } if unit == T::UNIT && value.is_possible() => {
                Ok(Self::Value(value))
            }
            Form::Value { .. } => Err(D::Error::custom("no such figure")),
            Form::Not { not_measured } => Ok(Self::Not(not_measured)),
        }
    }
}

macro_rules! quantities {
    ($($(#[$doc:meta])* $name:ident($value:ty) in $unit:literal, $is_possible:expr;)*) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub $value);

        impl Quantity for $name {
            const UNIT: &'static str = $unit;

            fn is_possible(&self) -> bool {
                let is_possible: fn(&$value) -> bool = $is_possible;
                is_possible(&self.0)
            }
        }
    )*};
}

quantities! {
    /// A length, in bytes.
    Bytes(u64) in "bytes", |_| true;
    /// A rate, in bytes a second; of weights, as they are when they are not coded.
    BytesPerSecond(u64) in "bytes_per_second", |rate| *rate > 0;
    /// A rate, in floating-point operations a second, a multiplication and an addition each.
    FlopPerSecond(u64) in "flop_per_second", |rate| *rate > 0;
    /// Processor cores.
    Cores(u64) in "cores", |count| *count > 0;
    /// Devices.
    Devices(u64) in "devices", |_| true;
    /// A share, in percent.
    Percent(u64) in "percent", |share| *share <= 100;
    /// What something is called.
    Name(String) in "name", |_| true;
    /// What several things are called.
    Names(Vec<String>) in "names", |_| true;
}

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&units::human_bytes(self.0))
    }
}

impl fmt::Display for BytesPerSecond {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/s", units::human_bytes(self.0))
    }
}

impl fmt::Display for FlopPerSecond {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // as of bytes: `12.3 GB`
        let shown = units::human_bytes(self.0);
        write!(f, "{}FLOP/s", shown.trim_end_matches('B'))
    }
}

impl fmt::Display for Cores {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&units::counted(self.0, "core"))
    }
}

impl fmt::Display for Devices {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&units::counted(self.0, "device"))
    }
}

impl fmt::Display for Percent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} %", self.0)
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for Names {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read<T: Quantity>(text: &str) -> Option<Measured<T>> {
        serde_json::from_str(text).ok()
    }

    #[test]
    fn a_figure_has_its_unit_and_what_is_none_its_reason() {
        let rate = Measured::Value(BytesPerSecond(1_900_000_000));
        let text = serde_json::to_string(&rate).unwrap();
        assert_eq!(text, r#"{"value":1900000000,"unit":"bytes_per_second"}"#);
        assert_eq!(read(&text), Some(rate.clone()));
        assert_eq!(rate.to_string(), "1.90 GB/s");
        let none = Measured::<Bytes>::not("no model was given");
        let text = serde_json::to_string(&none).unwrap();
        assert_eq!(text, r#"{"not_measured":"no model was given"}"#);
        assert_eq!(read(&text), Some(none.clone()));
        assert_eq!(none.to_string(), "not measured: no model was given");
        assert_eq!(FlopPerSecond(12_300_000_000).to_string(), "12.3 GFLOP/s");
    }

    #[test]
    fn nothing_else_is_read_as_a_figure() {
        for wrong in [
            "5",
            "null",
            "{}",
            r#"{"value":5}"#,
            r#"{"value":5,"unit":"bytes"}"#,
            r#"{"value":0,"unit":"bytes_per_second"}"#,
            r#"{"value":-1,"unit":"bytes_per_second"}"#,
            r#"{"value":1.5,"unit":"bytes_per_second"}"#,
            r#"{"value":null,"unit":"bytes_per_second"}"#,
            r#"{"not_measured":7}"#,
        ] {
            assert_eq!(read::<BytesPerSecond>(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn nothing_follows_from_what_was_not_measured() {
        let none = Measured::<Bytes>::not("why");
        assert_eq!(none.map(|bytes| bytes.0 * 2), Measured::not("why"));
        let five = Measured::Value(Bytes(5));
        assert_eq!(five.clone().map(|bytes| bytes.0 * 2), Measured::Value(10));
        let late = five.and_then(|_| Measured::<u64>::not("later"));
        assert_eq!(late.why_not(), Some("later"));
    }
}
