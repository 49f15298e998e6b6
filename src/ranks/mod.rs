//! Processes that train one adapter together: ranks 0 to n − 1, on one machine or several.
//!
//! Every rank holds the whole base and the whole adapter, computes some of a step's micro-batches, and applies the same
//! update. What travels is the adapter's flat gradient and a few numbers for each completion. [`Ranks`] is what a rank knows
//! of the others. The ranks are connected by MPI (cargo feature `mpi`) or by TCP; everything they do together is made of
//! frames from one to another and is the same over both, and over the channels between threads that tests use.
//!
//! A thread of its own sends, receives, and watches whether the others live: rank 0 all others, and the others rank 0 and those
//! beside them. A rank that ends, is silent for too long or fails ends them all, with a message that names it.

#[cfg(test)]
mod channels;
mod launched;
#[cfg(feature = "mpi")]
mod mpi;
mod pieces;
mod post;
mod shares;
mod state;
mod sum;
mod tcp;
mod topic;
mod wire;
mod work;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

pub use self::launched::{Launch, launch, local_rank};
use self::post::Post;
pub use self::shares::shares;
pub use self::state::OnFailure;
use self::topic::Topic;
use crate::error::{Error, Result};

/// The version of the program.
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// This process among those that train together. Clones are the same rank.
#[derive(Clone)]
pub struct Ranks {
    /// `None`: it trains alone.
    post: Option<Arc<Post>>,
    /// Its number among the ranks of its machine.
    local: usize,
    /// How many ranks its machine has.
    neighbours: usize,
    /// How many ranks share the processors that it may use.
    sharing: usize,
    /// Bytes that its machine had left before a rank read anything.
    available: Option<usize>,
}

/// A process that trains alone.
pub static ALONE: Ranks = Ranks { post: None, local: 0, neighbours: 1, sharing: 1, available: None };

impl Default for Ranks {
    fn default() -> Self {
        ALONE.clone()
    }
}

impl std::fmt::Debug for Ranks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "rank {} of {}", self.rank(), self.size())
    }
}

impl Ranks {
    /// A process that trains alone.
    pub fn alone() -> Self {
        ALONE.clone()
    }

    /// Connects this process with the others of its launch. It waits for them four times `patience`, the time without a sign
    /// of life after which a rank is given up.
    ///
    /// # Errors
    /// If a rank does not come, or they cannot be connected.
    pub fn join(launch: Launch, patience: Duration) -> Result<Self> {
        match launch {
            Launch::Alone => Ok(Self::alone()),
            Launch::Tcp(meeting) => {
                Self::connected(Post::start(move || tcp::join(&meeting, 4 * patience), patience)?, VERSION)
            }
            #[cfg(feature = "mpi")]
            Launch::Mpi(started) => {
                let post = Post::start(mpi::join, patience)?;
                if post.size != started {
                    let seen = post.size;
                    post.leave();
                    return Err(Error::Ranks(format!(
                        "the launcher started {started} processes, and MPI sees {seen}; start them with the mpirun of the MPI that \
                         the program was built with (with srun: --mpi=pmix or --mpi=pmi2)"
                    )));
                }
                Self::connected(post, VERSION)
            }
        }
    }

    /// Makes the ranks known to each other, and checks that they are of the same version of the program: others may not even
    /// read what rank 0 sends next.
    fn connected(post: Post, version: &str) -> Result<Self> {
        if post.size == 1 {
            post.leave();
            return Ok(Self::alone());
        }
        let mut ranks = Self { post: Some(Arc::new(post)), ..Self::alone() };
        let own = [host(), processors(), std::process::id().to_string(), version.to_string()];
        let all = ranks.gather(joined(&own.clone().map(String::into_bytes)))?;
        let text = |part: Vec<u8>| String::from_utf8_lossy(&part).into_owned();
        let all: Vec<Vec<String>> = all
            .iter()
            .map(|parts| Ok(split(parts, own.len())?.into_iter().map(text).collect()))
            .collect::<Result<_>>()?;
        ranks.local = all.iter().take(ranks.rank()).filter(|other| other[0] == own[0]).count();
        ranks.neighbours = all.iter().filter(|other| other[0] == own[0]).count();
        ranks.sharing = all.iter().filter(|other| other[..2] == own[..2]).count();
        if let Some(post) = &ranks.post {
            post.set_places(all.iter().map(|of| format!("host {}, process {}", of[0], of[2])).collect());
        }
        match all.iter().position(|of| of[3] != all[0][3]) {
            None => Ok(ranks),
            Some(other) => Err(Error::Ranks(format!(
                "{} is version {} of the program, and rank 0 is version {}; start every rank with the same",
                ranks.named(other),
                all[other][3],
                all[0][3]
            ))),
        }
    }

    /// Its number, from 0.
    pub fn rank(&self) -> usize {
        self.post.as_ref().map_or(0, |post| post.rank)
    }

    /// How many there are.
    pub fn size(&self) -> usize {
        self.post.as_ref().map_or(1, |post| post.size)
    }

    /// Its number among the ranks of its machine, from 0.
    pub fn local(&self) -> usize {
        self.local
    }

    /// How many ranks, this one included, its machine has.
    pub fn neighbours(&self) -> usize {
        self.neighbours
    }

    /// How many ranks, this one included, share the processors that it may use.
    pub fn sharing(&self) -> usize {
        self.sharing
    }

    /// Keeps the bytes that its machine had left before the ranks met. Later the weights of one are missing in what others find.
    #[must_use]
    pub fn with_available(self, available: Option<usize>) -> Self {
        Self { available: available.filter(|_| !self.is_alone()), ..self }
    }

    /// Bytes that its machine had left before the ranks met, if there are several and this is known.
    pub fn available(&self) -> Option<usize> {
        self.available
    }

    /// Names a rank and where it runs, for messages.
    pub fn named(&self, rank: usize) -> String {
        self.post.as_ref().map_or_else(|| format!("rank {rank}"), |post| post.named(rank))
    }

    /// Whether it is rank 0, which alone writes and prints.
    pub fn is_first(&self) -> bool {
        self.rank() == 0
    }

    /// Whether there is no other.
    pub fn is_alone(&self) -> bool {
        self.post.is_none()
    }

    /// Becomes true when the ranks have agreed on what they compute: from then on they work.
    pub fn has_begun(&self) -> Arc<AtomicBool> {
        self.post.as_ref().map_or_else(Arc::default, |post| post.has_begun.clone())
    }

    /// From now on the failure of a rank ends the process by `end`, if its main thread is busy.
    pub fn on_failure(&self, end: OnFailure) {
        if let Some(post) = &self.post {
            post.on_failure(end);
        }
    }

    /// Time that this rank has waited for the others, also for what they still computed.
    pub fn waited(&self) -> Duration {
        self.post.as_ref().map_or(Duration::ZERO, |post| post.waited())
    }

    /// Gives up ranks that are silent for so long.
    pub fn set_patience(&self, patience: Duration) {
        if let Some(post) = &self.post {
            post.set_patience(patience);
        }
    }

    /// Returns what every rank gave, in their order.
    ///
    /// # Errors
    /// If a rank has failed.
    pub fn gather(&self, own: Vec<u8>) -> Result<Vec<Vec<u8>>> {
        let Some(post) = &self.post else { return Ok(vec![own]) };
        if post.rank > 0 {
            post.send(0, Topic::Gather as u8, own);
            return split(&post.receive(0, Topic::Gathered as u8)?, post.size);
        }
        let mut all = vec![own];
        for rank in 1..post.size {
            all.push(post.receive(rank, Topic::Gather as u8)?);
        }
        let joined = joined(&all);
        (1..post.size).for_each(|rank| post.send(rank, Topic::Gathered as u8, joined.clone()));
        Ok(all)
    }

    /// Waits until all ranks are here.
    ///
    /// # Errors
    /// If a rank has failed.
    pub fn meet(&self) -> Result<()> {
        self.gather(Vec::new()).map(drop)
    }

    /// Does `work` on one rank of each machine first, then on the others: what it downloads or converts is there then.
    ///
    /// # Errors
    /// Those of `work`, or if a rank has failed.
    pub fn once_per_machine<T>(&self, work: impl FnOnce() -> Result<T>) -> Result<T> {
        if self.is_alone() {
            return work();
        }
        if self.local == 0 {
            let done = work()?;
            self.meet()?;
            return Ok(done);
        }
        self.meet()?;
        work()
    }

    /// Adds the gradients that the ranks have, in the order of the ranks and of `own` in each of them. `sum` begins with what
    /// rank 0 has added already, and becomes the sum on every rank.
    ///
    /// # Errors
    /// If a rank has failed, or its gradient has another length.
    pub fn sum_in_order(&self, own: &[Vec<f32>], sum: &mut [f32]) -> Result<()> {
        if let Some(post) = &self.post {
            return sum::in_order(post, own, sum);
        }
        for gradient in own {
            sum.iter_mut().zip(gradient).for_each(|(sum, g)| *sum += g);
        }
        Ok(())
    }

    /// Checks that all ranks have the same of everything that is named, before they begin to work.
    ///
    /// # Errors
    /// As [`Ranks::compare`].
    pub fn agree(&self, facts: &[(&str, String)]) -> Result<()> {
        self.compare(facts)?;
        if let Some(post) = &self.post {
            post.has_begun.store(true, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Checks that all ranks have the same of everything that is named.
    ///
    /// # Errors
    /// The same on every rank: it names the first rank that differs from rank 0, and in what.
    pub fn compare(&self, facts: &[(&str, String)]) -> Result<()> {
        let Some(post) = &self.post else { return Ok(()) };
        let own: Vec<Vec<u8>> = facts.iter().map(|(_, fact)| fact.clone().into_bytes()).collect();
        let all = self.gather(joined(&own))?;
        let all: Vec<Vec<Vec<u8>>> = all.iter().map(|own| split(own, facts.len())).collect::<Result<_>>()?;
        for (rank, own) in all.iter().enumerate() {
            let differs = own.iter().zip(&all[0]).position(|(own, first)| own != first);
            if let Some(at) = differs {
                let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
                let (own, first) = difference(&text(&own[at]), &text(&all[0][at]));
                return Err(Error::Ranks(format!(
                    "{} differs from rank 0 in {}: {own} instead of {first}; start every rank with the same program, command and \
                     files",
                    post.named(rank),
                    facts[at].0
                )));
            }
        }
        Ok(())
    }

    /// Names the ranks on which `is` holds; every rank gets the same names.
    ///
    /// # Errors
    /// If a rank has failed.
    pub fn named_where(&self, is: bool) -> Result<Vec<String>> {
        let all = self.gather(vec![u8::from(is)])?;
        let those = all.iter().enumerate().filter(|(_, is)| is.first() == Some(&1));
        Ok(those.map(|(rank, _)| self.named(rank)).collect())
    }

    /// Tells the other ranks that this one has failed: they end with this message.
    pub fn fail(&self, error: &Error) {
        if let Some(post) = &self.post {
            post.fail(&error.to_string());
            post.leave();
        }
    }

    /// Ends the connection, when all ranks have come so far.
    ///
    /// # Errors
    /// If a rank has failed.
    pub fn leave(&self) -> Result<()> {
        self.meet()?;
        if let Some(post) = &self.post {
            post.leave();
        }
        Ok(())
    }
}

/// The lines in which two texts differ first.
fn difference(a: &str, b: &str) -> (String, String) {
    let mut lines = a.lines().zip(b.lines());
    let (a, b) = lines.find(|(a, b)| a != b).unwrap_or((a, b));
    (a.trim().into(), b.trim().into())
}

/// Bytes of several parts, each behind its length.
fn joined(parts: &[Vec<u8>]) -> Vec<u8> {
    parts
        .iter()
        .flat_map(|part| (part.len() as u64).to_le_bytes().into_iter().chain(part.iter().copied()))
        .collect()
}

fn split(mut bytes: &[u8], count: usize) -> Result<Vec<Vec<u8>>> {
    let mut parts = Vec::with_capacity(count.min(bytes.len()));
    while let Some((length, rest)) = bytes.split_first_chunk::<8>() {
        let length = usize::try_from(u64::from_le_bytes(*length)).unwrap_or(usize::MAX);
        let Some((part, rest)) = rest.split_at_checked(length) else { break };
        parts.push(part.to_vec());
        bytes = rest;
    }
    if parts.len() != count || !bytes.is_empty() {
        return Err(Error::Ranks(format!("{} parts arrived, and {count} are due", parts.len())));
    }
    Ok(parts)
}

/// The name of this machine.
fn host() -> String {
    let named =
        std::fs::read_to_string("/proc/sys/kernel/hostname").ok().or_else(|| std::env::var("HOSTNAME").ok());
    named.map_or_else(|| "?".into(), |name| name.trim().replace('\n', " "))
}

/// The processors that this process may use, as the system writes them; empty if it does not say.
fn processors() -> String {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let allowed = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
    allowed.unwrap_or_default().trim().into()
}

#[cfg(test)]
mod tests;
