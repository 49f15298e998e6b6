//! Ranks connected by MPI, started by `mpirun`, `srun` or a Kubernetes MPIJob.
//!
//! A binding of our own, of seven functions: the ranks need only messages from one to another that do not wait, and the thread
//! that watches the others must never be blocked in MPI. `mpi/shim.c` hides what differs between Open MPI and MPICH; the
//! binding crate needs libclang and reads either's headers into hundreds of types.

use std::collections::VecDeque;
use std::ffi::{c_int, c_void};

use super::post::Joined;
use super::wire::{Lost, Wire};
use crate::error::{Error, Result};

unsafe extern "C" {
    fn dpo_lora_mpi_init(rank: *mut c_int, size: *mut c_int) -> c_int;
    fn dpo_lora_mpi_send(bytes: *const c_void, count: c_int, to: c_int) -> *mut c_void;
    fn dpo_lora_mpi_probe(from: *mut c_int, count: *mut c_int) -> c_int;
    fn dpo_lora_mpi_receive(bytes: *mut c_void, count: c_int, from: c_int) -> *mut c_void;
    fn dpo_lora_mpi_test(started: *mut c_void) -> c_int;
    fn dpo_lora_mpi_finalize();
}

/// A message on its way. Its bytes stay where they are until it is done.
struct Started {
    request: *mut c_void,
    bytes: Vec<u8>,
}

/// A rank of MPI's world.
struct Mpi {
    /// What is being sent, and to whom.
    leaving: Vec<(usize, Started)>,
    /// What is being received, by sender, in the order of the messages.
    arriving: Vec<VecDeque<Started>>,
}

/// Initialises MPI. The thread that calls this makes all calls.
///
/// # Errors
/// If MPI cannot be initialised.
pub(super) fn join() -> Result<Joined> {
    let (mut rank, mut size) = (0, 0);
    // SAFETY: both are places for a number, and this is the first call of MPI.
    let failed = unsafe { dpo_lora_mpi_init(&mut rank, &mut size) };
    let number = |n: c_int| usize::try_from(n).ok();
    let (Some(rank), Some(size), 0) = (number(rank), number(size), failed) else {
        return Err(Error::Ranks(
            "MPI cannot be initialised; start the program with the mpirun of the library it was built with"
                .into(),
        ));
    };
    let arriving = (0..size).map(|_| VecDeque::new()).collect();
    Ok((Box::new(Mpi { leaving: Vec::new(), arriving }), rank, size))
}

fn test(started: &Started) -> c_int {
    // SAFETY: the request was started and not yet found done, and its bytes are alive.
    unsafe { dpo_lora_mpi_test(started.request) }
}

fn broken(rank: usize, what: &str) -> Lost {
    Lost { rank, why: format!("MPI cannot {what} it") }
}

impl Mpi {
    /// Forgets messages that were sent.
    fn progress(&mut self) -> Result<(), Lost> {
        let mut lost = None;
        self.leaving.retain_mut(|(to, started)| match test(started) {
            0 => true,
            1 => false,
            _ => {
                // MPI may still read them.
                std::mem::forget(std::mem::take(&mut started.bytes));
                lost.get_or_insert_with(|| broken(*to, "send to"));
                false
            }
        });
        lost.map_or(Ok(()), Err)
    }

    /// Starts to receive every message that waits.
    fn accept(&mut self) -> Result<(), Lost> {
        loop {
            let (mut from, mut count) = (0, 0);
            // SAFETY: both are places for a number.
            let found = unsafe { dpo_lora_mpi_probe(&mut from, &mut count) };
            if found == 0 {
                return Ok(());
            }
            let rank = usize::try_from(from).unwrap_or(0);
            let (Ok(length), 1) = (usize::try_from(count), found) else {
                return Err(broken(rank, "receive from"));
            };
            let mut bytes = vec![0; length];
            // SAFETY: `bytes` has room for the message, and its heap block stays until the request is done.
            let request = unsafe { dpo_lora_mpi_receive(bytes.as_mut_ptr().cast(), count, from) };
            if request.is_null() {
                return Err(broken(rank, "receive from"));
            }
            if let Some(queue) = self.arriving.get_mut(rank) {
                queue.push_back(Started { request, bytes });
            }
        }
    }
}

impl Wire for Mpi {
    fn send(&mut self, to: usize, frame: Vec<u8>) -> Result<(), Lost> {
        let (Ok(count), Ok(rank)) = (c_int::try_from(frame.len()), c_int::try_from(to)) else {
            return Err(Lost {
                rank: to,
                why: format!("a message of {} bytes is too long for MPI", frame.len()),
            });
        };
        // SAFETY: the frame's heap block stays until the request is done.
        let request = unsafe { dpo_lora_mpi_send(frame.as_ptr().cast(), count, rank) };
        if request.is_null() {
            return Err(broken(to, "send to"));
        }
        self.leaving.push((to, Started { request, bytes: frame }));
        Ok(())
    }

    fn poll(&mut self) -> Result<Option<(usize, Vec<u8>)>, Lost> {
        self.progress()?;
        self.accept()?;
        for (rank, queue) in self.arriving.iter_mut().enumerate() {
            let done = queue.front().map_or(0, test);
            if done == 0 {
                continue;
            }
            let Some(started) = queue.pop_front() else { continue };
            if done != 1 {
                // MPI may still write to them.
                std::mem::forget(started.bytes);
                return Err(broken(rank, "receive from"));
            }
            return Ok(Some((rank, started.bytes)));
        }
        Ok(None)
    }

    fn is_flushed(&self) -> bool {
        self.leaving.is_empty()
    }

    fn close(&mut self, clean: bool) {
        if clean && self.leaving.is_empty() {
            // SAFETY: nothing is on its way, and no call follows.
            unsafe { dpo_lora_mpi_finalize() };
            return;
        }
        // MPI may still use them; the process ends, and mpirun ends the others.
        let arriving = std::mem::take(&mut self.arriving).into_iter().flatten();
        let leaving = std::mem::take(&mut self.leaving).into_iter().map(|(_, started)| started);
        arriving.chain(leaving).for_each(|started| std::mem::forget(started.bytes));
    }
}
