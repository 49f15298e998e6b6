//! Single values as JSON.

use ::parquet::basic::{ConvertedType, LogicalType, TimeUnit, Type as Physical};
use ::parquet::data_type::Int96;
use ::parquet::schema::types::Type;
use chrono::{DateTime, NaiveDateTime, NaiveTime, TimeDelta, Timelike};
use serde_json::{Map, Number, Value as Json};

use super::super::numbers::not_json;

/// The longest value of a column of fixed length, in bytes.
const MOST_FIXED: i32 = 1 << 20;

/// How the values of a column are written as JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Leaf {
    /// Booleans, signed integers and floats.
    Plain,
    Unsigned,
    /// Text: bytes that must be UTF-8.
    Text,
    /// Bytes: a string if they are UTF-8.
    Bytes,
    /// A decimal with so many digits behind the point.
    Decimal(i32),
    Date,
    /// Times and timestamps, in so many nanoseconds; timestamps tell whether they are in UTC.
    Time(i64),
    Timestamp {
        nanoseconds: i64,
        utc: bool,
    },
    Half,
    Uuid,
}

/// A value as it is stored.
#[derive(Clone, Copy, Debug)]
pub(super) enum Scalar<'a> {
    Bool(bool),
    Int32(i32),
    Int64(i64),
    /// A timestamp of older writers.
    Int96(&'a Int96),
    Float(f32),
    Double(f64),
    Bytes(&'a [u8]),
}

impl Leaf {
    /// # Errors
    /// What is wrong with the column, as the end of a sentence.
    pub(super) fn of(ty: &Type) -> Result<Self, String> {
        let physical = ty.get_physical_type();
        if let Type::PrimitiveType { type_length, physical_type: Physical::FIXED_LEN_BYTE_ARRAY, .. } = ty
            && !(1..=MOST_FIXED).contains(type_length)
        {
            return Err(format!("has values of {type_length} bytes each, which cannot be read"));
        }
        let info = ty.get_basic_info();
        let unit = |unit: TimeUnit| match unit {
            TimeUnit::MILLIS => 1_000_000,
            TimeUnit::MICROS => 1_000,
            TimeUnit::NANOS => 1,
        };
        let logical = match info.logical_type_ref() {
            Some(LogicalType::String | LogicalType::Enum | LogicalType::Json) => Some(Self::Text),
            Some(LogicalType::Decimal(decimal)) => Some(Self::Decimal(decimal.scale)),
            Some(LogicalType::Date) => Some(Self::Date),
            Some(LogicalType::Time(time)) => Some(Self::Time(unit(time.unit))),
            Some(LogicalType::Timestamp(time)) => {
                Some(Self::Timestamp { nanoseconds: unit(time.unit), utc: time.is_adjusted_to_u_t_c })
            }
            Some(LogicalType::Integer(integer)) if !integer.is_signed => Some(Self::Unsigned),
            Some(LogicalType::Float16) => Some(Self::Half),
            Some(LogicalType::Uuid) => Some(Self::Uuid),
            // Others do not change how a value is written, or are only known from the converted type.
            _ => None,
        };
        Ok(logical.unwrap_or_else(|| match info.converted_type() {
            ConvertedType::UTF8 | ConvertedType::ENUM | ConvertedType::JSON => Self::Text,
            ConvertedType::DECIMAL => Self::Decimal(ty.get_scale()),
            ConvertedType::DATE => Self::Date,
            ConvertedType::TIME_MILLIS => Self::Time(1_000_000),
            ConvertedType::TIME_MICROS => Self::Time(1_000),
            ConvertedType::TIMESTAMP_MILLIS => Self::Timestamp { nanoseconds: 1_000_000, utc: true },
            ConvertedType::TIMESTAMP_MICROS => Self::Timestamp { nanoseconds: 1_000, utc: true },
            ConvertedType::UINT_8
            | ConvertedType::UINT_16
            | ConvertedType::UINT_32
            | ConvertedType::UINT_64 => Self::Unsigned,
            _ if matches!(physical, Physical::BYTE_ARRAY | Physical::FIXED_LEN_BYTE_ARRAY) => Self::Bytes,
            _ => Self::Plain,
        }))
    }

    /// The JSON of `value` in column `name`. What JSON cannot hold becomes an object that says what it is, as
    /// `{"bytes": 12}`: of a column that is used, it has the wrong type.
    ///
    /// # Errors
    /// A text that is not UTF-8.
    pub(super) fn json(self, value: Scalar<'_>, name: &str) -> Result<Json, String> {
        Ok(match (self, value) {
            (_, Scalar::Bool(value)) => Json::Bool(value),
            (_, Scalar::Float(value)) => float(f64::from(value), name),
            (_, Scalar::Double(value)) => float(value, name),
            (_, Scalar::Int96(value)) => {
                int96(value).map_or_else(|| odd("timestamp", "of 96 bits".into()), text)
            }
            (Self::Unsigned, Scalar::Int32(value)) => value.cast_unsigned().into(),
            (Self::Unsigned, Scalar::Int64(value)) => value.cast_unsigned().into(),
            (_, Scalar::Int32(value)) => self.integer(i64::from(value)),
            (_, Scalar::Int64(value)) => self.integer(value),
            (Self::Text, Scalar::Bytes(bytes)) => Json::String(
                std::str::from_utf8(bytes)
                    .map_err(|_| "is not valid UTF-8; write the text as UTF-8")?
                    .to_owned(),
            ),
            (Self::Decimal(scale), Scalar::Bytes(bytes)) => {
                signed(bytes).map_or_else(|| held(bytes), |unscaled| decimal(unscaled, scale))
            }
            (Self::Half, Scalar::Bytes(&[low, high])) => {
                float(half::f16::from_le_bytes([low, high]).to_f64(), name)
            }
            (Self::Uuid, Scalar::Bytes(bytes)) if bytes.len() == 16 => text(uuid(bytes)),
            (_, Scalar::Bytes(bytes)) => match std::str::from_utf8(bytes) {
                Ok(value) => text(value.to_owned()),
                Err(_) => held(bytes),
            },
        })
    }

    fn integer(self, value: i64) -> Json {
        match self {
            Self::Decimal(scale) => decimal(value.into(), scale),
            Self::Date => value
                .checked_mul(86_400)
                .and_then(|seconds| DateTime::from_timestamp(seconds, 0))
                .map_or_else(|| value.into(), |date| text(date.date_naive().to_string())),
            Self::Time(nanoseconds) => value
                .checked_mul(nanoseconds)
                .filter(|time| (0..86_400_000_000_000).contains(time))
                .map_or_else(
                    || value.into(),
                    |time| text(clock(NaiveTime::MIN + TimeDelta::nanoseconds(time))),
                ),
            Self::Timestamp { nanoseconds, utc } => {
                timestamp(value, nanoseconds).map_or_else(|| value.into(), |time| text(moment(time, utc)))
            }
            _ => value.into(),
        }
    }
}

fn text(text: String) -> Json {
    Json::String(text)
}

/// An object for what JSON cannot hold.
fn odd(what: &str, value: Json) -> Json {
    Json::Object(Map::from_iter([(what.to_owned(), value)]))
}

fn held(bytes: &[u8]) -> Json {
    odd("bytes", bytes.len().into())
}

/// A number of the column at `path`. What is no number of JSON stands where the number would, so that its place is that
/// of the whole column.
fn float(value: f64, path: &str) -> Json {
    let column = || path.split('.').next().unwrap_or(path);
    match Number::from_f64(value) {
        Some(number) => Json::Number(number),
        None if value.is_nan() => not_json("NaN", column()),
        None => not_json(if value > 0.0 { "Infinity" } else { "-Infinity" }, column()),
    }
}

/// A number of two's complement, the highest byte first.
fn signed(bytes: &[u8]) -> Option<i128> {
    if bytes.is_empty() || bytes.len() > 16 {
        return None;
    }
    let negative = bytes[0] & 0x80 != 0;
    let start = if negative { -1 } else { 0 };
    Some(bytes.iter().fold(start, |value: i128, byte| value << 8 | i128::from(*byte)))
}

/// The nearest float, as `float(Decimal(...))` gives it.
fn decimal(unscaled: i128, scale: i32) -> Json {
    let value: Option<f64> = format!("{unscaled}e{}", -i64::from(scale)).parse().ok();
    value.and_then(Number::from_f64).map_or_else(|| text(unscaled.to_string()), Json::Number)
}

fn timestamp(value: i64, nanoseconds: i64) -> Option<NaiveDateTime> {
    let found = match nanoseconds {
        1_000_000 => DateTime::from_timestamp_millis(value)?,
        1_000 => DateTime::from_timestamp_micros(value)?,
        _ => DateTime::from_timestamp_nanos(value),
    };
    Some(found.naive_utc())
}

/// Nanoseconds of the day, then the Julian day; 2440588 is 1970-01-01.
fn int96(value: &Int96) -> Option<String> {
    let [low, high, day] = value.data() else { return None };
    let nanoseconds = i64::try_from(u64::from(*high) << 32 | u64::from(*low)).ok()?;
    let seconds = (i64::from(*day) - 2_440_588) * 86_400;
    let start = DateTime::from_timestamp(seconds, 0)?.naive_utc();
    Some(moment(start.checked_add_signed(TimeDelta::nanoseconds(nanoseconds))?, false))
}

/// Python's `isoformat`.
fn moment(time: NaiveDateTime, utc: bool) -> String {
    format!("{}T{}{}", time.date(), clock(time.time()), if utc { "+00:00" } else { "" })
}

fn clock(time: NaiveTime) -> String {
    let form = match time.nanosecond() {
        0 => "%H:%M:%S",
        nanoseconds if nanoseconds % 1_000 == 0 => "%H:%M:%S%.6f",
        _ => "%H:%M:%S%.9f",
    };
    time.format(form).to_string()
}

fn uuid(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(36);
    for (i, byte) in bytes.iter().enumerate() {
        if [4, 6, 8, 10].contains(&i) {
            text.push('-');
        }
        text.push_str(&format!("{byte:02x}"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn numbers_of_every_kind() {
        let of = |leaf: Leaf, value| leaf.json(value, "x").unwrap();
        assert_eq!(of(Leaf::Unsigned, Scalar::Int32(-1)), json!(u32::MAX));
        assert_eq!(of(Leaf::Unsigned, Scalar::Int64(-1)), json!(u64::MAX));
        assert_eq!(of(Leaf::Decimal(2), Scalar::Int32(-125)), json!(-1.25));
        assert_eq!(of(Leaf::Decimal(2), Scalar::Bytes(&[0xFF, 0x83])), json!(-1.25));
        assert_eq!(of(Leaf::Decimal(-2), Scalar::Int32(3)), json!(300.0));
        assert_eq!(of(Leaf::Half, Scalar::Bytes(&[0, 0x3E])), json!(1.5));
        assert_eq!(of(Leaf::Plain, Scalar::Double(f64::NAN)), json!({"NaN": "x"}));
        assert_eq!(of(Leaf::Plain, Scalar::Float(f32::NEG_INFINITY)), json!({"-Infinity": "x"}));
        let nested = Leaf::Plain.json(Scalar::Double(f64::NAN), "x.list.element").unwrap();
        assert_eq!(nested, json!({"NaN": "x"}));
    }

    /// Expected: Python's `isoformat` and `str(uuid.UUID(...))`.
    #[test]
    fn times_and_texts() {
        let of = |leaf: Leaf, value| leaf.json(value, "x").unwrap();
        assert_eq!(of(Leaf::Date, Scalar::Int32(-1)), "1969-12-31");
        assert_eq!(of(Leaf::Time(1_000), Scalar::Int64(3_723_000_004)), "01:02:03.000004");
        let stamp = |utc| Leaf::Timestamp { nanoseconds: 1_000_000, utc };
        assert_eq!(of(stamp(true), Scalar::Int64(1_500)), "1970-01-01T00:00:01.500000+00:00");
        assert_eq!(of(stamp(false), Scalar::Int64(i64::MAX)), json!(i64::MAX));
        let mut old = Int96::new();
        old.set_data(1_000_000_000, 0, 2_440_589);
        assert_eq!(of(Leaf::Plain, Scalar::Int96(&old)), "1970-01-02T00:00:01");
        let bytes: Vec<u8> = (0..16).collect();
        assert_eq!(of(Leaf::Uuid, Scalar::Bytes(&bytes)), "00010203-0405-0607-0809-0a0b0c0d0e0f");
        assert_eq!(of(Leaf::Bytes, Scalar::Bytes("ä".as_bytes())), "ä");
        assert_eq!(of(Leaf::Bytes, Scalar::Bytes(&[0xFF, 1])), json!({"bytes": 2}));
        assert!(Leaf::Text.json(Scalar::Bytes(&[0xFF]), "x").is_err());
    }
}
