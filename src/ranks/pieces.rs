//! What is long is sent in pieces, between which others send signs of life.

use super::{Ranks, Topic, joined, split};
use crate::error::{Error, Result};

/// Bytes that are sent at once.
pub(super) const PIECE: usize = 1 << 20;

impl Ranks {
    /// Returns what rank 0 gave; the others give nothing.
    ///
    /// # Errors
    /// If a rank has failed.
    pub fn broadcast(&self, own: Vec<u8>) -> Result<Vec<u8>> {
        let Some(post) = &self.post else { return Ok(own) };
        let topic = Topic::Broadcast as u8;
        let pass = |bytes: &[u8]| {
            if post.rank + 1 < post.size {
                post.send(post.rank + 1, topic, bytes.to_vec());
            }
        };
        if post.rank == 0 {
            in_pieces(&own, pass);
            return Ok(own);
        }
        whole(|| {
            let piece = post.receive(post.rank - 1, topic)?;
            pass(&piece);
            Ok(piece)
        })
    }

    /// As [`Ranks::gather`], of any length: signs of life come between the pieces, and rank 0 sends what all gave once only.
    ///
    /// # Errors
    /// If a rank has failed.
    pub(super) fn gather_long(&self, own: Vec<u8>) -> Result<Vec<Vec<u8>>> {
        let Some(post) = &self.post else { return Ok(vec![own]) };
        let topic = Topic::Gather as u8;
        if post.rank > 0 {
            in_pieces(&own, |piece| post.send(0, topic, piece.to_vec()));
            return split(&self.broadcast(Vec::new())?, post.size);
        }
        let mut all = vec![own];
        for rank in 1..post.size {
            all.push(whole(|| post.receive(rank, topic))?);
        }
        self.broadcast(joined(&all))?;
        Ok(all)
    }
}

/// Passes on the length of some bytes, and then the bytes in pieces.
fn in_pieces(bytes: &[u8], mut pass: impl FnMut(&[u8])) {
    pass(&(bytes.len() as u64).to_le_bytes());
    bytes.chunks(PIECE).for_each(pass);
}

/// Puts together what [`in_pieces`] has passed on.
fn whole(mut receive: impl FnMut() -> Result<Vec<u8>>) -> Result<Vec<u8>> {
    let length = receive()?;
    let length = <[u8; 8]>::try_from(&length[..]).map(u64::from_le_bytes);
    let length = length.map_err(|_| Error::Ranks("pieces arrive without their length".into()))?;
    let mut found = Vec::new();
    while (found.len() as u64) < length {
        found.extend(receive()?);
    }
    Ok(found)
}
