//! The part of Protocol Buffers needed to read a SentencePiece model: the sequence of fields in a message.

/// The value of a field in wire format.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Value<'a> {
    /// Integers and booleans.
    Varint(u64),
    /// Eight bytes.
    Fixed64(u64),
    /// Four bytes: a float.
    Fixed32(u32),
    /// Text, bytes or a nested message.
    Bytes(&'a [u8]),
}

/// Returns the numbers and values of the fields of `message`.
///
/// # Errors
/// Fails if the bytes are not a valid message.
pub(super) fn fields(message: &[u8]) -> Result<Vec<(u64, Value<'_>)>, String> {
    let mut rest = message;
    let mut found = Vec::new();
    while !rest.is_empty() {
        let key = varint(&mut rest)?;
        let value = match key & 7 {
            0 => Value::Varint(varint(&mut rest)?),
            1 => Value::Fixed64(u64::from_le_bytes(array(&mut rest)?)),
            2 => {
                let length = usize::try_from(varint(&mut rest)?).unwrap_or(usize::MAX);
                let (bytes, left) = rest.split_at_checked(length).ok_or_else(short)?;
                rest = left;
                Value::Bytes(bytes)
            }
            5 => Value::Fixed32(u32::from_le_bytes(array(&mut rest)?)),
            other => return Err(format!("it has a field of wire type {other}")),
        };
        found.push((key >> 3, value));
    }
    Ok(found)
}

fn short() -> String {
    "it ends within a field".into()
}

fn array<const N: usize>(rest: &mut &[u8]) -> Result<[u8; N], String> {
    let (bytes, left) = rest.split_first_chunk::<N>().ok_or_else(short)?;
    *rest = left;
    Ok(*bytes)
}

fn varint(rest: &mut &[u8]) -> Result<u64, String> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (byte, left) = rest.split_first().ok_or_else(short)?;
        *rest = left;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err("it has a number of more than 64 bits".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The examples of the encoding's document (protobuf.dev/programming-guides/encoding).
    #[test]
    fn fields_are_read_or_refused() {
        assert_eq!(fields(&[0x08, 0x96, 0x01]).unwrap(), [(1, Value::Varint(150))]);
        assert_eq!(fields(&[0x12, 2, b'h', b'i']).unwrap(), [(2, Value::Bytes(b"hi"))]);
        assert_eq!(fields(&[0x15, 0, 0, 0x80, 0x3f]).unwrap(), [(2, Value::Fixed32(1.0_f32.to_bits()))]);
        for damaged in [&[0x08_u8][..], &[0x12, 3, b'h'], &[0x15, 0], &[0x0b], &[0x08, 0x80], &[0xff; 12]] {
            assert!(fields(damaged).is_err(), "{damaged:?}");
        }
    }
}
