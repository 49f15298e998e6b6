//! Writes bytes to a file while the next ones are computed, on a separate thread.

use std::io::{Error, ErrorKind, Result, Write};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};

/// Pieces that wait to be written: one while the thread writes another and the caller makes a third.
const WAITING: usize = 2;

/// The next piece to write.
enum Piece<'a> {
    Made(Vec<u8>),
    Kept(&'a [u8]),
}

/// The caller's end: pieces are sent in the order of the file.
pub(super) struct Stream<'a> {
    to: SyncSender<Piece<'a>>,
    /// Buffers that were written and can be filled again.
    spent: Receiver<Vec<u8>>,
}

impl<'a> Stream<'a> {
    /// A buffer of this many bytes, with any content.
    pub fn buffer(&self, bytes: usize) -> Vec<u8> {
        let mut buffer = self.spent.try_recv().unwrap_or_default();
        buffer.resize(bytes, 0);
        buffer
    }

    /// Writes a filled buffer.
    ///
    /// # Errors
    /// If writing failed before; [`through`] returns the error.
    pub fn write_buffer(&mut self, buffer: Vec<u8>) -> Result<()> {
        self.send(Piece::Made(buffer))
    }

    /// Writes bytes that outlive the stream, without a copy.
    ///
    /// # Errors
    /// As [`Stream::write_buffer`].
    pub fn write_kept(&mut self, bytes: &'a [u8]) -> Result<()> {
        self.send(Piece::Kept(bytes))
    }

    fn send(&mut self, piece: Piece<'a>) -> Result<()> {
        self.to.send(piece).map_err(|_| Error::from(ErrorKind::BrokenPipe))
    }
}

/// For headers and padding; they are copied.
impl Write for Stream<'_> {
    fn write(&mut self, bytes: &[u8]) -> Result<usize> {
        if !bytes.is_empty() {
            self.send(Piece::Made(bytes.to_vec()))?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> Result<()> {
        Ok(())
    }
}

/// Writes to `out` what `make` sends into the stream. The first value is that of `make`; it is only valid if the second, the
/// result of writing, is not an error.
pub(super) fn through<'a, T>(
    out: &mut (dyn Write + Send),
    make: impl FnOnce(&mut Stream<'a>) -> T,
) -> (T, Result<()>) {
    let (to, pieces) = sync_channel(WAITING);
    let (back, spent) = channel();
    std::thread::scope(|scope| {
        let writer = scope.spawn(move || drain(out, &pieces, &back));
        let mut stream = Stream { to, spent };
        let made = make(&mut stream);
        // Closes the channel, so that the thread ends.
        drop(stream);
        let written = writer.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        (made, written)
    })
}

fn drain(out: &mut dyn Write, pieces: &Receiver<Piece>, back: &Sender<Vec<u8>>) -> Result<()> {
    for piece in pieces {
        match piece {
            Piece::Kept(bytes) => out.write_all(bytes)?,
            Piece::Made(bytes) => {
                out.write_all(&bytes)?;
                // The last buffers are not needed again.
                let _ = back.send(bytes);
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_keep_their_order_and_buffers_come_back() {
        let (kept, mut out) = (vec![7u8; 3000], Vec::new());
        let (made, written) = through(&mut out, |stream| {
            stream.write_all(b"head")?;
            for i in 0..100u8 {
                let mut buffer = stream.buffer(usize::from(i));
                buffer.fill(i);
                stream.write_buffer(buffer)?;
                stream.write_kept(&kept[..usize::from(i % 3)])?;
            }
            Ok::<_, Error>(5)
        });
        assert_eq!(made.unwrap(), 5);
        written.unwrap();
        let mut wanted = b"head".to_vec();
        for i in 0..100u8 {
            wanted.extend(vec![i; usize::from(i)]);
            wanted.extend(vec![7; usize::from(i % 3)]);
        }
        assert_eq!(out, wanted);
    }

    /// Accepts this many bytes, then is full.
    struct Full(usize);

    impl Write for Full {
        fn write(&mut self, bytes: &[u8]) -> Result<usize> {
            let taken = bytes.len().min(self.0);
            self.0 -= taken;
            if taken == 0 { Err(ErrorKind::StorageFull.into()) } else { Ok(taken) }
        }

        fn flush(&mut self) -> Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_full_disk_is_told_and_nobody_waits_for_ever() {
        let (made, written) =
            through(&mut Full(10), |stream| (0..1000).try_for_each(|_| stream.write_all(&[1; 4])));
        assert_eq!(made.unwrap_err().kind(), ErrorKind::BrokenPipe);
        assert_eq!(written.unwrap_err().kind(), ErrorKind::StorageFull);
    }
}
