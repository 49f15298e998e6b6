//! Keys and their lines in the text of a document. The parser of YAML keeps no lines.

/// Returns the 1-based line of `key` in block style. A value that came by `--set`, or is in flow style (`{a: 1}`), has
/// none.
pub(in crate::config) fn line_of(text: &str, section: Option<&str>, key: &str) -> Option<usize> {
    let mut inside = section.is_none();
    for (number, line) in text.lines().enumerate() {
        let indented = line.starts_with([' ', '\t']);
        let Some((found, _)) = line.trim().split_once(':') else { continue };
        let found = found.trim_matches(['"', '\'', ' ']);
        if !indented && section.is_some() {
            inside = Some(found) == section;
        } else if inside && indented == section.is_some() && found == key {
            return Some(number + 1);
        }
    }
    None
}

/// Finds the key that `error`, of the parser, calls a duplicate: the key and the lines of its first two places in block
/// style.
pub(super) fn repeated(text: &str, error: &str) -> Option<(String, [usize; 2])> {
    // The mappings around a line: their indentation, and their keys with the lines.
    let mut around: Vec<(usize, Vec<(&str, usize)>)> = Vec::new();
    // The indentation of the key whose value is the text of these lines.
    let mut block: Option<usize> = None;
    for (line, number) in text.lines().zip(1..) {
        let mut content = line.trim_start();
        if block.is_some_and(|indent| content.is_empty() || line.len() - content.len() > indent) {
            continue;
        }
        block = None;
        while let Some(entry) = content.strip_prefix("- ") {
            around.retain(|(indent, _)| *indent <= line.len() - content.len());
            content = entry.trim_start();
        }
        let Some((key, value)) = content.split_once(':').filter(|_| !content.starts_with('#')) else {
            continue;
        };
        let (key, indent) = (key.trim_matches(['"', '\'', ' ']), line.len() - content.len());
        block = value.trim_start().starts_with(['|', '>']).then_some(indent);
        around.retain(|(outer, _)| *outer <= indent);
        if around.last().is_none_or(|(outer, _)| *outer < indent) {
            around.push((indent, Vec::new()));
        }
        let (_, keys) = around.last_mut()?;
        match keys.iter().find(|(known, _)| *known == key) {
            Some((_, first)) if error.contains(&format!("with key {key:?}")) => {
                return Some((key.to_string(), [*first, number]));
            }
            Some(_) => {}
            None => keys.push((key, number)),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_found_in_their_section() {
        let text = "seed: 1\n\"model\":\n  base: x\nlora:\n  # r: 3\n  r: 4\n  \"base\": 5\n";
        assert_eq!(line_of(text, None, "seed"), Some(1));
        assert_eq!(line_of(text, None, "lora"), Some(4));
        assert_eq!(line_of(text, Some("lora"), "r"), Some(6));
        assert_eq!(line_of(text, Some("lora"), "base"), Some(7));
        assert_eq!(line_of(text, Some("model"), "base"), Some(3));
        assert_eq!(line_of(text, Some("model"), "r"), None);
        assert_eq!(line_of("lora: {r: 4}", Some("lora"), "r"), None);
    }

    #[test]
    fn a_repeated_key_is_found_in_its_mapping() {
        let found =
            |text: &str, key: &str| repeated(text, &format!("x: duplicate entry with key {key:?} at line 1"));
        let lines = |key: &str, lines| Some((key.to_string(), lines));
        let text = "train: {a: 1}\nmodel:\n  a: 1\n  # a: 2\n  b:\n    a: 1\n  \"a\": 3\ntrain:\n  a: 1\n";
        assert_eq!(found(text, "train"), lines("train", [1, 8]));
        assert_eq!(found(text, "a"), lines("a", [3, 7]));
        assert_eq!(found(text, "b"), None);
        let stages = "stages:\n- name: sft\n  train: {a: 1}\n- name: dpo\n  train:\n    a: 1\n  train: {b: 1}\nseed: 1\n";
        assert_eq!(found(stages, "train"), lines("train", [5, 7]));
        assert_eq!(found(stages, "name"), None);
        let block = "data:\n  template: |\n    r: x\n    r: y\n\n    z\nlora:\n  r: 4\n  r: 8\n";
        assert_eq!(found(block, "r"), lines("r", [8, 9]));
    }
}
