//! Metadata: typed values by key, which stay in the file until they are asked for.

use std::collections::BTreeMap;
use std::ops::Range;

use super::cursor::{Cursor, Parsed};
use crate::error::{Error, Result};

/// Limit of nested arrays.
const DEEPEST: usize = 4;

/// A value of the metadata.
#[derive(Clone, Debug, PartialEq)]
pub enum Value<'a> {
    /// Any of the eight whole-number types.
    Integer(i128),
    /// A float of 32 or 64 bits.
    Float(f64),
    /// A Boolean.
    Flag(bool),
    /// Text.
    Text(&'a str),
    /// A list.
    Array(Array<'a>),
}

/// A list of values of one type.
#[derive(Clone, Debug, PartialEq)]
pub struct Array<'a> {
    kind: u32,
    count: usize,
    /// The elements and what follows them.
    bytes: &'a [u8],
}

/// The type and place of a value whose bytes have been checked.
#[derive(Clone, Debug)]
pub(super) struct Place {
    kind: u32,
    bytes: Range<usize>,
}

/// The metadata of a file.
#[derive(Clone, Copy, Debug)]
pub struct Metadata<'a> {
    places: &'a BTreeMap<String, Place>,
    bytes: &'a [u8],
}

const TEXT: u32 = 8;
const ARRAY: u32 = 9;

/// Bytes of a value of this type; `None` for text, arrays and unknown types.
fn size(kind: u32) -> Option<usize> {
    match kind {
        0 | 1 | 7 => Some(1),
        2 | 3 => Some(2),
        4..=6 => Some(4),
        10..=12 => Some(8),
        _ => None,
    }
}

/// Skips one value and checks it, so that [`read`] cannot fail on it.
pub(super) fn check(cursor: &mut Cursor, kind: u32, depth: usize) -> Parsed<Place> {
    let start = cursor.at();
    match (kind, size(kind)) {
        (7, _) => check_flags(cursor.take(1)?)?,
        (_, Some(size)) => drop(cursor.take(size)?),
        (TEXT, _) => drop(cursor.text()?),
        (ARRAY, _) if depth >= DEEPEST => return Err(format!("its arrays are nested deeper than {DEEPEST}")),
        (ARRAY, _) => {
            let kind = cursor.u32()?;
            let least = size(kind).unwrap_or(if kind == ARRAY { 12 } else { 8 });
            let count = cursor.count("elements of an array", least)?;
            if let Some(size) = size(kind) {
                let flags = cursor.take(count * size)?;
                check_flags(if kind == 7 { flags } else { &[] })?;
            } else {
                for _ in 0..count {
                    check(cursor, kind, depth + 1)?;
                }
                if count == 0 && !matches!(kind, TEXT | ARRAY) {
                    return Err(format!("its elements are of the unknown type {kind}"));
                }
            }
        }
        _ => return Err(format!("it is of the unknown type {kind}")),
    }
    Ok(Place { kind, bytes: start..cursor.at() })
}

fn check_flags(bytes: &[u8]) -> Parsed<()> {
    match bytes.iter().find(|byte| **byte > 1) {
        Some(byte) => Err(format!("a Boolean is {byte}; it must be 0 or 1")),
        None => Ok(()),
    }
}

/// The next value of this type.
fn read<'a>(cursor: &mut Cursor<'a>, kind: u32) -> Parsed<Value<'a>> {
    if kind == TEXT {
        return Ok(Value::Text(cursor.text()?));
    }
    if kind == ARRAY {
        let (kind, count) = (cursor.u32()?, cursor.count("elements", 1)?);
        let mut rest = cursor.clone();
        let bytes = rest.take(rest.left())?;
        match size(kind) {
            Some(size) => drop(cursor.take(count * size)?),
            None => (0..count).try_for_each(|_| read(cursor, kind).map(drop))?,
        }
        return Ok(Value::Array(Array { kind, count, bytes }));
    }
    let bytes = cursor.take(size(kind).unwrap_or(0))?;
    let mut wide = [0; 8];
    wide[..bytes.len()].copy_from_slice(bytes);
    let unsigned = u64::from_le_bytes(wide);
    // Moves the sign bit of a number of this many bytes to the top and back.
    let unused = 64 - 8 * bytes.len().max(1) as u32;
    let signed = (unsigned << unused).cast_signed() >> unused;
    Ok(match kind {
        0 | 2 | 4 | 10 => Value::Integer(unsigned.into()),
        1 | 3 | 5 | 11 => Value::Integer(signed.into()),
        6 => Value::Float(f32::from_bits(unsigned as u32).into()),
        12 => Value::Float(f64::from_bits(unsigned)),
        _ => Value::Flag(unsigned != 0),
    })
}

impl<'a> Array<'a> {
    /// The number of elements.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether it is empty.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The elements in order.
    pub fn iter(&self) -> impl Iterator<Item = Value<'a>> + use<'a> {
        let (mut cursor, kind) = (Cursor::new(self.bytes, 0), self.kind);
        (0..self.count).map_while(move |_| read(&mut cursor, kind).ok())
    }
}

impl<'a> Metadata<'a> {
    pub(super) fn new(places: &'a BTreeMap<String, Place>, bytes: &'a [u8]) -> Self {
        Self { places, bytes }
    }

    /// All keys, sorted.
    pub fn keys(&self) -> impl Iterator<Item = &'a str> + use<'a> {
        self.places.keys().map(String::as_str)
    }

    /// A value.
    pub fn get(&self, key: &str) -> Option<Value<'a>> {
        let Place { kind, bytes } = self.places.get(key)?;
        read(&mut Cursor::new(&self.bytes[bytes.clone()], 0), *kind).ok()
    }

    fn typed<T>(
        &self,
        key: &str,
        expected: &str,
        take: impl Fn(Value<'a>) -> Option<T>,
    ) -> Result<Option<T>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        take(value).map(Some).ok_or_else(|| {
            Error::Weights(format!(
                "the GGUF file's metadata: {key} is not {expected}; convert the model again"
            ))
        })
    }

    /// A text, if the key exists.
    ///
    /// # Errors
    /// If the value has another type; likewise for the other methods.
    pub fn text(&self, key: &str) -> Result<Option<&'a str>> {
        self.typed(key, "text", |value| if let Value::Text(text) = value { Some(text) } else { None })
    }

    /// A whole number that is not negative, of any integer type.
    ///
    /// # Errors
    /// As [`Metadata::text`].
    pub fn integer(&self, key: &str) -> Result<Option<u64>> {
        self.typed(key, "a whole number", |value| match value {
            Value::Integer(number) => u64::try_from(number).ok(),
            _ => None,
        })
    }

    /// A finite number of any type.
    ///
    /// # Errors
    /// As [`Metadata::text`].
    pub fn float(&self, key: &str) -> Result<Option<f64>> {
        self.typed(key, "a finite number", |value| match value {
            Value::Float(number) => Some(number).filter(|number| number.is_finite()),
            Value::Integer(number) => Some(number as f64),
            _ => None,
        })
    }

    /// A Boolean.
    ///
    /// # Errors
    /// As [`Metadata::text`].
    pub fn flag(&self, key: &str) -> Result<Option<bool>> {
        self.typed(
            key,
            "true or false",
            |value| if let Value::Flag(flag) = value { Some(flag) } else { None },
        )
    }

    /// A list.
    ///
    /// # Errors
    /// As [`Metadata::text`].
    pub fn array(&self, key: &str) -> Result<Option<Array<'a>>> {
        self.typed(key, "a list", |value| if let Value::Array(array) = value { Some(array) } else { None })
    }

    /// A list of texts.
    ///
    /// # Errors
    /// As [`Metadata::text`].
    pub fn texts(&self, key: &str) -> Result<Option<Vec<&'a str>>> {
        self.typed(key, "a list of strings", |value| {
            let Value::Array(array) = value else { return None };
            array.iter().map(|each| if let Value::Text(text) = each { Some(text) } else { None }).collect()
        })
    }

    /// A list of numbers.
    ///
    /// # Errors
    /// As [`Metadata::text`].
    pub fn numbers(&self, key: &str) -> Result<Option<Vec<f64>>> {
        self.typed(key, "a list of numbers", |value| {
            let Value::Array(array) = value else { return None };
            array
                .iter()
                .map(|each| match each {
                    Value::Integer(number) => Some(number as f64),
                    Value::Float(number) => Some(number),
                    Value::Flag(flag) => Some(f64::from(u8::from(flag))),
                    _ => None,
                })
                .collect()
        })
    }
}
