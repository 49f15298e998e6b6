//! Syncs long files to the disk while they are being written.

use std::fs::File;
use std::io::{Result, Write};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::JoinHandle;

/// Bytes after which a sync is started. The system on its own may wait for gigabytes, or for the last sync.
const SPAN: usize = 128 << 20;
/// Largest number of bytes written at once.
const WRITE: usize = 8 << 20;

/// Writes to a file while another thread syncs it, so that little is left for the sync at the end.
pub struct Draining<'a> {
    file: &'a File,
    span: usize,
    /// Bytes since the last sync was started.
    fresh: usize,
    syncing: Option<Syncing>,
}

struct Syncing {
    ask: SyncSender<()>,
    /// Ends with the first error: the system reports an error only once, so it must not be lost.
    thread: JoinHandle<Result<()>>,
}

impl<'a> Draining<'a> {
    /// Writes at the file's position.
    pub fn new(file: &'a File) -> Self {
        Self { file, span: SPAN, fresh: 0, syncing: None }
    }

    /// Waits for the syncs that were started. The caller syncs the file.
    ///
    /// # Errors
    /// If writing to the disk failed.
    pub fn finish(&mut self) -> Result<()> {
        let Some(Syncing { ask, thread }) = self.syncing.take() else { return Ok(()) };
        drop(ask);
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    fn drain(&mut self) -> Result<()> {
        self.fresh = 0;
        if self.syncing.as_ref().is_some_and(|syncing| syncing.thread.is_finished()) {
            return self.finish();
        }
        if let Some(syncing) = &self.syncing {
            // A sync is already running, or will start, that includes these bytes.
            let _ = syncing.ask.try_send(());
            return Ok(());
        }
        let (ask, asked) = sync_channel(1);
        let file = self.file.try_clone()?;
        let _ = ask.try_send(());
        let thread = std::thread::spawn(move || asked.iter().try_for_each(|()| file.sync_data()));
        self.syncing = Some(Syncing { ask, thread });
        Ok(())
    }
}

impl Write for Draining<'_> {
    fn write(&mut self, bytes: &[u8]) -> Result<usize> {
        let mut file = self.file;
        let written = file.write(&bytes[..bytes.len().min(WRITE)])?;
        self.fresh += written;
        if self.fresh >= self.span {
            self.drain()?;
        }
        Ok(written)
    }

    fn flush(&mut self) -> Result<()> {
        Ok(())
    }
}

impl Drop for Draining<'_> {
    /// Stops syncing once the writer has given up.
    fn drop(&mut self) {
        let _ = self.finish();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_arrives_in_order_across_syncs() {
        let mut file = tempfile::tempfile().unwrap();
        let piece: Vec<u8> = (0..=250).cycle().take(300_000).collect();
        let mut out = Draining::new(&file);
        out.span = 1 << 20;
        for _ in 0..8 {
            out.write_all(&piece).unwrap();
        }
        assert!(out.syncing.is_some(), "2.4 MB are more than a span");
        out.finish().unwrap();
        assert!(out.syncing.is_none());
        drop(out);
        std::io::Seek::rewind(&mut file).unwrap();
        let mut found = vec![0; piece.len()];
        for _ in 0..8 {
            std::io::Read::read_exact(&mut file, &mut found).unwrap();
            assert!(found == piece);
        }
        assert_eq!(std::io::Read::read(&mut file, &mut found).unwrap(), 0);
    }

    #[test]
    #[cfg(unix)]
    fn a_disk_that_fails_is_told() {
        // The end of a pipe cannot be synced.
        let (_reader, writer) = std::io::pipe().unwrap();
        let file = File::from(std::os::fd::OwnedFd::from(writer));
        let mut out = Draining::new(&file);
        out.drain().unwrap();
        assert!(out.finish().is_err());
    }
}
