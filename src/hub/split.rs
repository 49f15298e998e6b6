//! The split of a file, from its name.

/// Words in a file's name that name its split (`datasets.data_files.SPLIT_KEYWORDS`).
const KEYWORDS: [(&str, &[&str]); 3] = [
    ("train", &["train", "training"]),
    ("validation", &["validation", "valid", "dev", "val"]),
    ("test", &["test", "testing", "eval", "evaluation"]),
];

/// The split in the path `name`, as `datasets` reads it.
pub(super) fn split_of(name: &str) -> Option<String> {
    // `data/NAME-00000-of-00003.json`, as `push_to_hub` writes it, names any split.
    let file = name.rsplit('/').next().unwrap_or(name);
    let stem = file.strip_suffix(".gz").or_else(|| file.strip_suffix(".zst")).unwrap_or(file);
    let stem = stem.rsplit_once('.').map_or(stem, |(stem, _)| stem);
    if let Some((rest, count)) = stem.rsplit_once("-of-")
        && let Some((split, number)) = rest.rsplit_once('-')
        && [count, number].iter().all(|part| part.len() == 5 && part.bytes().all(|b| b.is_ascii_digit()))
    {
        let known = keyword(split);
        return Some(known.map_or_else(|| split.to_owned(), str::to_owned));
    }
    name.rsplit('/').find_map(keyword).map(str::to_owned)
}

fn keyword(part: &str) -> Option<&'static str> {
    let part = part.to_ascii_lowercase();
    let mut words = part.split(|c: char| !c.is_ascii_alphanumeric());
    words.find_map(|word| KEYWORDS.iter().find(|(_, words)| words.contains(&word)).map(|(split, _)| *split))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_tell_splits_as_in_datasets() {
        for (name, split) in [
            ("train.jsonl", Some("train")),
            ("my_train_v2.jsonl", Some("train")),
            ("data/dev.jsonl", Some("validation")),
            ("test/part-1.jsonl", Some("test")),
            ("train/test.jsonl", Some("test")),
            ("trainer.jsonl", None),
            ("data/prefs-00000-of-00002.json", Some("prefs")),
            ("data/train_prefs-00000-of-00002.json", Some("train")),
            ("pairs.jsonl", None),
        ] {
            assert_eq!(split_of(name).as_deref(), split, "{name}");
        }
    }
}
