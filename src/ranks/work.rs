//! Work that is cut into items, each of which one rank does.
//!
//! Of n ranks, rank r does the items r, r + n, r + 2n and so on. All go through the items side by side, so that the results
//! come about in order, and rank 0 writes the first ones while the others compute. What an item gives must not depend on the
//! rank that does it; then the results are those of one rank.

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{Ranks, Topic};
use crate::error::{Error, Result};

impl Ranks {
    /// Returns the numbers of the items that this rank does of `count`, in order.
    pub fn items(&self, count: usize) -> impl Iterator<Item = usize> + use<> {
        (self.rank()..count).step_by(self.size())
    }

    /// Does `count` items of work: `work` returns the result of an item. Rank 0 calls `each` with every item and its result,
    /// in the order of the items; the other ranks never do. Numbers in the results must be finite.
    ///
    /// # Errors
    /// Those of `work` and `each`, or if a rank has failed.
    pub fn in_turn<T: Serialize + DeserializeOwned>(
        &self,
        count: usize,
        mut work: impl FnMut(usize) -> Result<T>,
        mut each: impl FnMut(usize, T) -> Result<()>,
    ) -> Result<()> {
        let Some(post) = &self.post else {
            return (0..count).try_for_each(|item| each(item, work(item)?));
        };
        if post.rank > 0 {
            return self.items(count).try_for_each(|item| {
                // Rank 0 sends nothing before it has all items. Whoever waits for nothing learns here that a rank has failed.
                post.received(0, Topic::Item as u8)?;
                post.send(0, Topic::Item as u8, written(&work(item)?)?);
                Ok(())
            });
        }
        (0..count).try_for_each(|item| match item % post.size {
            0 => each(item, work(item)?),
            by => each(item, read(&post.receive(by, Topic::Item as u8)?)?),
        })
    }

    /// As [`Ranks::in_turn`], and returns the results of all items on every rank.
    ///
    /// # Errors
    /// Those of `work`, or if a rank has failed.
    pub fn all<T: Serialize + DeserializeOwned>(
        &self,
        count: usize,
        work: impl FnMut(usize) -> Result<T>,
    ) -> Result<Vec<T>> {
        let own = self.items(count).map(work).collect::<Result<Vec<T>>>()?;
        if self.is_alone() {
            return Ok(own);
        }
        let lists = self.gather_long(written(&own)?)?;
        let mut lists =
            lists.iter().map(|list| Ok(read::<Vec<T>>(list)?.into_iter())).collect::<Result<Vec<_>>>()?;
        let ranks = self.size();
        let taken = (0..count).map(|item| lists[item % ranks].next().ok_or_else(damaged));
        let all = taken.collect::<Result<Vec<T>>>()?;
        match lists.iter().all(|list| list.len() == 0) {
            true => Ok(all),
            false => Err(damaged()),
        }
    }

    /// Returns what `find` gives on rank 0, on every rank.
    ///
    /// # Errors
    /// Those of `find`, or if a rank has failed.
    pub fn told<T: Serialize + DeserializeOwned>(&self, find: impl FnOnce() -> Result<T>) -> Result<T> {
        if !self.is_first() {
            return read(&self.broadcast(Vec::new())?);
        }
        let found = find()?;
        if !self.is_alone() {
            self.broadcast(written(&found)?)?;
        }
        Ok(found)
    }

    /// Returns what all ranks have, that of rank 0 first, on every rank.
    ///
    /// # Errors
    /// If a rank has failed.
    pub fn joined<T: Serialize + DeserializeOwned>(&self, own: Vec<T>) -> Result<Vec<T>> {
        if self.is_alone() {
            return Ok(own);
        }
        let lists = self.gather_long(written(&own)?)?;
        let lists = lists.iter().map(|list| read::<Vec<T>>(list)).collect::<Result<Vec<_>>>()?;
        Ok(lists.into_iter().flatten().collect())
    }
}

fn written(result: &impl Serialize) -> Result<Vec<u8>> {
    serde_json::to_vec(result).map_err(|e| Error::Ranks(format!("a result cannot be sent: {e}")))
}

fn read<T: DeserializeOwned>(bytes: &[u8]) -> Result<T> {
    serde_json::from_slice(bytes).map_err(|_| damaged())
}

fn damaged() -> Error {
    Error::Ranks("the results that a rank sent are damaged".into())
}
