//! Protocol buffers' wire format (<https://protobuf.dev/programming-guides/encoding>), as far as the files here need it.

/// A length-delimited field: strings, bytes and messages.
pub(super) fn message(field: u64, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(payload.len() + 4);
    varint(&mut bytes, field << 3 | 2);
    varint(&mut bytes, payload.len() as u64);
    bytes.extend_from_slice(payload);
    bytes
}

/// A field with an integer that is not negative.
pub(super) fn integer(field: u64, value: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    varint(&mut bytes, field << 3);
    varint(&mut bytes, value);
    bytes
}

/// Seven bits per byte, the lowest first.
pub(super) fn varint(bytes: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_those_of_the_guide() {
        // 150 in field 1, and "testing" in field 2: the guide's own examples
        assert_eq!(integer(1, 150), [0x08, 0x96, 0x01]);
        assert_eq!(message(2, b"testing"), b"\x12\x07testing");
    }

    #[test]
    fn varints_are_protobufs() {
        let mut bytes = Vec::new();
        varint(&mut bytes, 300);
        assert_eq!(bytes, [0xac, 0x02]);
    }
}
