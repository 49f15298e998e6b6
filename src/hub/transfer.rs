//! Downloads a file into the cache: resumed after an interruption, measured, hashed, and only then given its name.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::Path;

use ring::digest;

use super::cache::Repository;
use super::disk::make_parent;
use super::http::{Answer, Client, Failure, Method};
use super::path::RepoPath;
use super::progress::Progress;
use super::retry::{give_up, retry};
use crate::error::{Error, Result};

/// Largest number of bytes between two calls of [`Progress::advance`].
const BUFFER: usize = 1 << 18;

/// The Hub's answer about a file.
#[derive(Debug)]
struct Meta {
    /// A file name.
    etag: String,
    size: Option<u64>,
}

/// A file that is being downloaded.
pub(super) struct Transfer<'a> {
    pub(super) client: &'a Client,
    pub(super) progress: &'a dyn Progress,
    pub(super) repository: &'a Repository,
    pub(super) commit: &'a str,
    pub(super) file: &'a RepoPath,
}

impl Transfer<'_> {
    /// Downloads the file into the cache, unless its bytes are there under another name.
    pub(super) fn run(&self) -> Result<()> {
        let attempts = self.client.attempts();
        let meta = retry(self.client, attempts, self.progress, |_| self.meta())
            .map_err(|failure| give_up(failure, attempts))?;
        let blob = self.repository.blob(&meta.etag);
        if !blob.is_file() {
            let _lock = self.repository.lock(&meta.etag, self.progress)?;
            // Another process may have downloaded it while this one waited.
            if !blob.is_file() {
                self.download(&meta, &blob)?;
            }
        }
        self.repository.link(self.commit, self.file, &meta.etag)
    }

    fn describe(&self) -> String {
        format!("{} of {}", self.file, self.repository.id)
    }

    fn url(&self) -> String {
        self.repository.file_url(self.commit, self.file)
    }

    fn meta(&self) -> Result<Meta, Failure> {
        let answer = self.client.send(Method::Head, &self.url(), 0)?;
        if answer.status() >= 400 {
            return Err(self.client.refusal(&answer, self.repository, self.file.as_str()));
        }
        if let Some(other) = answer.linked.commit.as_ref().filter(|commit| *commit != self.commit) {
            return Err(Failure::hub(format!(
                "{}: the Hub answers with commit {} instead of {}; try again",
                self.describe(),
                other.escape_default(),
                self.commit
            )));
        }
        // The length of a redirect is that of its own body.
        let length = || answer.header("content-length").filter(|_| answer.status() == 200)?.parse().ok();
        Ok(Meta { etag: self.etag(&answer)?, size: answer.linked.size.or_else(length) })
    }

    /// The ETag without its quotes, which is how Python names blobs; checked, because it becomes a file name.
    fn etag(&self, answer: &Answer) -> Result<String, Failure> {
        let raw = answer.linked.etag.as_deref().or_else(|| answer.header("etag")).unwrap_or_default();
        let etag = raw.trim_start_matches("W/").trim_matches('"');
        let named = !etag.is_empty()
            && etag.len() <= 128
            && !etag.starts_with('.')
            && etag.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
        if named {
            return Ok(etag.to_owned());
        }
        Err(Failure::hub(format!(
            "{}: the server gives the ETag `{}`, which cannot name a file of the cache; is HF_ENDPOINT a Hub?",
            self.describe(),
            raw.escape_default()
        )))
    }

    fn download(&self, meta: &Meta, blob: &Path) -> Result<()> {
        let partial = blob.with_file_name(format!("{}.incomplete", meta.etag));
        make_parent(&partial)?;
        // Not truncated: its content is the beginning that an earlier run received.
        let mut file = File::options()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(&partial)
            .map_err(Error::write(&partial))?;
        let attempts = self.client.attempts();
        let received = retry(self.client, attempts, self.progress, |reached| {
            self.receive(meta, &mut file, &partial, reached)
        })
        .and_then(|()| self.verify(meta, &mut file, &partial));
        received.map_err(|failure| give_up(failure, attempts))?;
        file.sync_all().map_err(Error::write(&partial))?;
        fs::rename(&partial, blob).map_err(Error::write(blob))?;
        self.progress.end();
        Ok(())
    }

    /// One request for the missing part of `file`.
    fn receive(&self, meta: &Meta, file: &mut File, path: &Path, reached: &mut u64) -> Result<(), Failure> {
        let mut have = file.seek(SeekFrom::End(0)).map_err(Error::write(path))?;
        *reached = have;
        // Without a length, an incomplete file would look complete.
        if have > 0 && meta.size.is_none_or(|size| have > size) {
            have = restart(file, path)?;
        }
        if meta.size == Some(have) {
            self.progress.begin(self.file.as_str(), meta.size, have);
            return Ok(());
        }
        let answer = self.client.send(Method::Get, &self.url(), have)?;
        if self.etag_changed(meta, &answer) {
            return Err(discard(
                path,
                format!("{} changed while it was downloaded; try again", self.describe()),
            ));
        }
        let total = match answer.status() {
            206 => {
                let (start, total) = content_range(answer.header("content-range").unwrap_or_default());
                if start != Some(have) {
                    restart(file, path)?;
                    return Err(Failure::passing(format!(
                        "{}: the server sends another range",
                        self.describe()
                    )));
                }
                total
            }
            200 => {
                have = restart(file, path)?;
                answer.response.body().content_length()
            }
            416 => {
                restart(file, path)?;
                return Err(Failure::passing(format!("{}: the server refuses to resume", self.describe())));
            }
            _ => return Err(self.client.refusal(&answer, self.repository, self.file.as_str())),
        };
        if let (Some(size), Some(total)) = (meta.size, total)
            && size != total
        {
            return Err(self.wrong_length(path, size, total));
        }
        self.progress.begin(self.file.as_str(), meta.size, have);
        self.copy(answer, meta.size, file, path, have, reached)
    }

    fn etag_changed(&self, meta: &Meta, answer: &Answer) -> bool {
        answer.linked.etag.is_some() && self.etag(answer).ok().as_ref() != Some(&meta.etag)
    }

    fn wrong_length(&self, path: &Path, size: u64, got: u64) -> Failure {
        let message = format!(
            "{} should be {size} bytes, but the server sends {got}; try again, or see whether HF_ENDPOINT is a Hub",
            self.describe()
        );
        discard(path, message)
    }

    fn copy(
        &self,
        answer: Answer,
        size: Option<u64>,
        file: &mut File,
        path: &Path,
        mut have: u64,
        reached: &mut u64,
    ) -> Result<(), Failure> {
        let mut body = answer.response.into_body().into_reader();
        let mut buffer = vec![0; BUFFER];
        loop {
            let count = match body.read(&mut buffer) {
                Ok(0) => break,
                Ok(count) => count,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => {
                    return Err(Failure::passing(format!(
                        "{} was cut at byte {have} ({e})",
                        self.describe()
                    )));
                }
            };
            file.write_all(&buffer[..count]).map_err(Error::write(path))?;
            have += count as u64;
            *reached = have.max(*reached);
            if let Some(size) = size.filter(|size| have > *size) {
                return Err(self.wrong_length(path, size, have));
            }
            self.progress.advance(count as u64);
        }
        match size {
            Some(size) if have < size => {
                Err(Failure::passing(format!("{} was cut at byte {have} of {size}", self.describe())))
            }
            _ => Ok(()),
        }
    }

    /// Checks the bytes against the ETag if that is a hash of them.
    fn verify(&self, meta: &Meta, file: &mut File, path: &Path) -> Result<(), Failure> {
        let found = sums(&meta.etag, file).map_err(Error::read(path))?;
        let is_it = |(_, sum): &(&str, String)| sum.eq_ignore_ascii_case(&meta.etag);
        let (Some((name, sum)), false) = (found.first(), found.iter().any(is_it)) else { return Ok(()) };
        let message = format!(
            "{} has the {name} {sum} instead of {}; what was received is removed, try again",
            self.describe(),
            meta.etag
        );
        Err(discard(path, message))
    }
}

/// The hashes of a file that its ETag may be, with their names: for a large file the SHA-256; for a small one Git's hash, which is
/// the SHA-1 behind a line with the length, or the SHA-1 alone, which some mirrors send. None for an ETag that is no hash.
fn sums(etag: &str, file: &mut File) -> io::Result<Vec<(&'static str, String)>> {
    let length = file.seek(SeekFrom::End(0))?;
    let mut contexts = match (etag.len(), etag.bytes().all(|b| b.is_ascii_hexdigit())) {
        (64, true) => vec![("SHA-256", digest::Context::new(&digest::SHA256))],
        (40, true) => {
            let alone = digest::Context::new(&digest::SHA1_FOR_LEGACY_USE_ONLY);
            let mut git = alone.clone();
            git.update(format!("blob {length}\0").as_bytes());
            vec![("Git hash", git), ("SHA-1", alone)]
        }
        _ => return Ok(Vec::new()),
    };
    file.rewind()?;
    let mut buffer = vec![0; BUFFER];
    loop {
        let count = file.read(&mut buffer)?;
        if count == 0 {
            break;
        }
        contexts.iter_mut().for_each(|(_, context)| context.update(&buffer[..count]));
    }
    let hex = |sum: digest::Digest| sum.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(contexts.into_iter().map(|(name, context)| (name, hex(context.finish()))).collect())
}

/// An incomplete file is kept for the next run; a wrong one is not.
fn discard(path: &Path, message: String) -> Failure {
    drop(fs::remove_file(path));
    Failure::hub(message)
}

fn restart(file: &mut File, path: &Path) -> Result<u64> {
    file.set_len(0).and_then(|()| file.rewind()).map_err(Error::write(path))?;
    Ok(0)
}

/// Start and total of `bytes 5-9/10`; the total may be `*`.
fn content_range(text: &str) -> (Option<u64>, Option<u64>) {
    let Some((range, total)) = text.trim().strip_prefix("bytes ").and_then(|rest| rest.split_once('/'))
    else {
        return (None, None);
    };
    (range.split_once('-').and_then(|(start, _)| start.trim().parse().ok()), total.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_etag_is_a_hash_by_the_number_of_its_digits() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"hello\n").unwrap();
        let mut of = |etag: String| sums(&etag, &mut file).unwrap();
        // printf 'hello\n' | git hash-object --stdin; sha1sum; sha256sum
        let git = "ce013625030ba8dba906f756967f9e9ca394464a";
        let sha1 = "f572d396fae9206628714fb2ce00f72e94f2258f";
        let sha256 = "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03";
        assert_eq!(of("a".repeat(40)), [("Git hash", git.to_string()), ("SHA-1", sha1.to_string())]);
        assert_eq!(of("A".repeat(64)), [("SHA-256", sha256.to_string())]);
        for other in ["of-the-storage".to_string(), "a".repeat(32), "g".repeat(40), "a".repeat(65)] {
            assert!(of(other).is_empty());
        }
    }

    #[test]
    fn content_ranges_are_read_or_not() {
        assert_eq!(content_range("bytes 5-9/10"), (Some(5), Some(10)));
        assert_eq!(content_range("bytes 5-9/*"), (Some(5), None));
        for text in ["", "bytes */10", "items 5-9/10", "bytes 99999999999999999999-1/2", "bytes 5/10"] {
            assert_eq!(content_range(text).0, None, "{text}");
        }
    }
}
