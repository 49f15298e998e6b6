//! What a file is by its first bytes, whatever its name.

/// The number of bytes that are looked at.
pub(super) const HEAD: usize = 512;

/// What a file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Gzip,
    Zstd,
    Parquet,
    Text,
    /// A format that is not read: what it is, and the remedy.
    Foreign(&'static str, &'static str),
}

const PANDAS: &str =
    "convert it with pandas, for example to_json(\"pairs.jsonl\", orient=\"records\", lines=True)";
const DATASETS: &str =
    "load it with `datasets` and write it with to_parquet(\"pairs.parquet\") or to_json(\"pairs.jsonl\")";
const UNPACK: &str = "unpack it and name the files in it";
const UTF8: &str = "convert it to UTF-8: iconv -f UTF-16 -t UTF-8 FILE > pairs.jsonl";

/// First bytes, what they belong to, and the remedy. The longer of two that agree comes first.
const FOREIGN: [(&[u8], &str, &str); 27] = [
    (b"PARE", "an encrypted Parquet file", "decrypt it"),
    (b"\xFF\xFE\0\0", "UTF-32 text", "convert it to UTF-8: iconv -f UTF-32 -t UTF-8 FILE > pairs.jsonl"),
    (b"\xFF\xFE", "UTF-16 text", UTF8),
    (b"\xFE\xFF", "UTF-16 text", UTF8),
    (b"PK\x03\x04", "a zip archive (or an Excel workbook)", UNPACK),
    (b"PK\x05\x06", "an empty zip archive", UNPACK),
    (b"\xFD7zXZ\0", "an xz file", "unpack it with `xz -d`, or compress it with gzip or zstd"),
    (b"BZh", "a bzip2 file", "unpack it with `bunzip2`, or compress it with gzip or zstd"),
    (b"7z\xBC\xAF\x27\x1C", "a 7-Zip archive", UNPACK),
    (b"Rar!", "a rar archive", UNPACK),
    (b"\x04\x22\x4D\x18", "an lz4 file", "unpack it with `lz4 -d`, or compress it with gzip or zstd"),
    (b"ORC", "an ORC file", PANDAS),
    (b"ARROW1", "an Arrow IPC (Feather) file", DATASETS),
    (b"FEA1", "a Feather file", PANDAS),
    (b"\xFF\xFF\xFF\xFF", "an Arrow IPC stream", DATASETS),
    (b"Obj\x01", "an Avro file", PANDAS),
    (b"SQLite format 3\0", "an SQLite data base", PANDAS),
    (b"\x89HDF", "an HDF5 file", PANDAS),
    (b"\x93NUMPY", "a NumPy array", PANDAS),
    (b"%PDF", "a PDF document", "name a file of records"),
    (b"GGUF", "a GGUF model", "name a file of records; a model goes under `model.base`"),
    (b"version https://git-lfs", "a Git LFS pointer, not the data", "fetch the data with `git lfs pull`"),
    (b"<!DOCTYPE", "a web page", "download the file itself (on the Hub: its \"resolve\" link)"),
    (b"<!doctype", "a web page", "download the file itself (on the Hub: its \"resolve\" link)"),
    (b"<html", "a web page", "download the file itself (on the Hub: its \"resolve\" link)"),
    (b"<?xml", "an XML document", PANDAS),
    (b"\x7FELF", "a program", "name a file of records"),
];

impl Kind {
    /// The kind of a file that begins with `head`.
    pub(super) fn of(head: &[u8]) -> Self {
        if head.starts_with(&[0x1F, 0x8B]) {
            return Self::Gzip;
        }
        // A frame, or one of the frames that hold no data.
        if head.starts_with(&[0x28, 0xB5, 0x2F, 0xFD])
            || (head.get(1..4) == Some(&[0x2A, 0x4D, 0x18]) && head[0] & 0xF0 == 0x50)
        {
            return Self::Zstd;
        }
        if head.starts_with(b"PAR1") {
            return Self::Parquet;
        }
        if let Some((_, what, remedy)) = FOREIGN.iter().find(|(magic, ..)| head.starts_with(magic)) {
            return Self::Foreign(what, remedy);
        }
        match head {
            [0x80, 2..=5, ..] => Self::Foreign("a Python pickle", PANDAS),
            [0, first, ..] | [first, 0, ..] if first.is_ascii() => Self::Foreign("UTF-16 text", UTF8),
            _ if head.get(257..262) == Some(b"ustar") => Self::Foreign("a tar archive", UNPACK),
            _ => Self::Text,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_bytes_tell_what_a_file_is() {
        assert_eq!(Kind::of(&[0x1F, 0x8B, 8]), Kind::Gzip);
        assert_eq!(Kind::of(&[0x28, 0xB5, 0x2F, 0xFD]), Kind::Zstd);
        assert_eq!(Kind::of(&[0x50, 0x2A, 0x4D, 0x18]), Kind::Zstd);
        assert_eq!(Kind::of(b"PAR1"), Kind::Parquet);
        for text in [&b"{\"a\": 1}"[..], b"", b"[", b"a,b\n", b"\xEF\xBB\xBF{", b"\x80", b"P", "é".as_bytes()]
        {
            assert_eq!(Kind::of(text), Kind::Text, "{text:?}");
        }
        let tar = [&[b'a'; 257][..], b"ustar"].concat();
        for (head, expected) in [
            (&b"\xFF\xFE{\0"[..], "UTF-16"),
            (b"\xFE\xFF\0{", "UTF-16"),
            (b"{\0\"\0", "UTF-16"),
            (b"\0{\0\"", "UTF-16"),
            (b"\xFF\xFE\0\0", "UTF-32"),
            (b"PK\x03\x04", "zip"),
            (b"\xFD7zXZ\0", "xz"),
            (b"BZh9", "bzip2"),
            (b"ORC", "ORC"),
            (b"ARROW1\0\0", "Arrow IPC"),
            (b"\xFF\xFF\xFF\xFF\x10", "Arrow IPC stream"),
            (b"\x80\x04\x95", "pickle"),
            (b"version https://git-lfs.github.com/spec/v1", "Git LFS"),
            (&tar, "tar"),
        ] {
            assert!(
                matches!(Kind::of(head), Kind::Foreign(what, _) if what.contains(expected)),
                "{expected}"
            );
        }
    }
}
