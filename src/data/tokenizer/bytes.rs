//! GPT-2's characters for bytes (`bytes_to_unicode`): printable bytes map to themselves, the others to U+0100 onwards.

/// Returns one character per byte.
pub(super) fn letters(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| letter(*byte)).collect()
}

fn letter(byte: u8) -> char {
    let prints = |byte: u8| matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
    if prints(byte) {
        return char::from(byte);
    }
    let before = (0..byte).filter(|before| !prints(*before)).count() as u32;
    char::from_u32(0x100 + before).unwrap_or(char::REPLACEMENT_CHARACTER)
}

#[cfg(test)]
mod tests {
    /// Letters that every byte-level vocabulary has.
    #[test]
    fn letters_are_gpt2s() {
        assert_eq!(super::letters(b" \n\t!~"), "ĠĊĉ!~");
        assert_eq!(super::letters(&[0, 0x7f, 0xa0, 0xad, 0xff]), "ĀġłŃÿ");
    }
}
