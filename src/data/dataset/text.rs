//! The texts of prompts among the words of the examples: rewards read a prompt as it was written.

/// Appends the words of a text: its number of bytes plus 1, a hash of it, and its bytes, with zeros up to a whole word. Two zeros
/// stand for no text.
pub(super) fn append(words: &mut Vec<u32>, text: Option<&str>) {
    match text.and_then(|text| Some((text, u32::try_from(text.len()).ok()?.checked_add(1)?))) {
        None => words.extend([0, 0]),
        Some((text, length)) => {
            words.extend([length, hash(text.as_bytes())]);
            words.extend(text.as_bytes().chunks(4).map(|bytes| {
                let mut word = [0; 4];
                word[..bytes.len()].copy_from_slice(bytes);
                u32::from_le_bytes(word)
            }));
        }
    }
}

/// Returns the text with which these words begin, and `Some(None)` if they say that there is none; `None` if they are damaged.
pub(super) fn read(words: &[u32]) -> Option<Option<String>> {
    let ([length, hashed], rest) = words.split_first_chunk::<2>()?;
    let Some(length) = length.checked_sub(1) else { return (*hashed == 0).then_some(None) };
    let length = usize::try_from(length).ok()?;
    let words = rest.get(..length.div_ceil(4))?;
    let mut bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    bytes.truncate(length);
    (hash(&bytes) == *hashed).then_some(())?;
    String::from_utf8(bytes).ok().map(Some)
}

/// Four bytes of the BLAKE3 hash, never 0.
fn hash(bytes: &[u8]) -> u32 {
    let digest = blake3::hash(bytes);
    let mut word = [0; 4];
    word.copy_from_slice(&digest.as_bytes()[..4]);
    u32::from_le_bytes(word) | 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_of_any_length_read_back_and_damage_is_seen() {
        for text in [None, Some(""), Some("a"), Some("four"), Some("été, 日本")] {
            let mut words = vec![7];
            append(&mut words, text);
            words.push(9);
            assert_eq!(read(&words[1..]), Some(text.map(String::from)), "{text:?}");
            for bit in [0, 6, 31] {
                let mut damaged = words[1..].to_vec();
                damaged[0] ^= 1 << bit;
                assert_ne!(read(&damaged), Some(text.map(String::from)), "{text:?}");
            }
        }
        let mut words = Vec::new();
        append(&mut words, Some("a text"));
        words[2] ^= 1;
        assert_eq!(read(&words), None);
        assert_eq!((read(&words[..2]), read(&[])), (None, None));
    }
}
