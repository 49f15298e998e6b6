//! Cards of several processes that are connected by NCCL (<https://docs.nvidia.com/deeplearning/nccl/>), which is opened at run
//! time.
//!
//! The sum of gradients must not depend on how many processes compute them, and the order of NCCL's own reductions is not
//! fixed. So its messages only carry the running sum from card to card; each card adds its gradients in their order.

use std::ffi::{c_int, c_void};
use std::path::Path;
use std::ptr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::ffi::{Handle, NCCL_F32, Nccl, UniqueId};
use super::{Address, Backend, Buffer, Form, Kind, Matrix, Product, Stream, libraries};
use crate::error::{Error, Result};

/// Numbers of a piece of the running sum: 1 MiB.
const PIECE: usize = 1 << 18;

/// NCCL, opened.
pub struct Library(Nccl);

impl Library {
    /// Opens the named file, or the NCCL that is installed.
    ///
    /// # Errors
    /// Why it cannot be opened.
    pub fn open(named: Option<&Path>) -> Result<Self, String> {
        libraries::nccl(named).map(Self)
    }

    /// Its version, as 2.21.5.
    pub fn version(&self) -> String {
        let mut version: c_int = 0;
        // SAFETY: the number is written.
        unsafe { (self.0.version)(&mut version) };
        format!("{}.{}.{}", version / 10_000, version / 100 % 100, version % 100)
    }

    /// A name for a group of ranks that rank 0 makes and all join.
    ///
    /// # Errors
    /// If the library fails.
    pub fn group(&self) -> Result<Vec<u8>> {
        let mut id = UniqueId([0; 128]);
        // SAFETY: the name is written.
        check("ncclGetUniqueId", unsafe { (self.0.unique_id)(&mut id) })?;
        Ok(id.0.to_vec())
    }
}

/// This process's card among those of a group.
pub struct Linked {
    library: Library,
    group: Mutex<Group>,
    device: Arc<dyn Backend>,
    rank: usize,
    size: usize,
    /// The number 1.
    one: Buffer,
}

struct Group(Handle);

// SAFETY: a group may be used from any thread, one at a time.
unsafe impl Send for Group {}

fn check(what: &str, status: c_int) -> Result<()> {
    let why = match status {
        0 => return Ok(()),
        1 => "CUDA failed",
        2 => "the system failed",
        3 => "an internal error",
        4 => "an invalid argument",
        5 => "an invalid use",
        6 => "another rank failed",
        _ => "an unknown error",
    };
    Err(Error::Device(format!(
        "{what} gave status {status}: {why}; NCCL_DEBUG=INFO lets NCCL say more, and without DPO_LORA_NCCL gradients pass through \
         the memory of the hosts"
    )))
}

impl Linked {
    /// Joins a group, with all its other ranks at once.
    ///
    /// # Errors
    /// If the library fails, or the name is none.
    pub fn join(
        library: Library,
        device: &Arc<dyn Backend>,
        name: &[u8],
        (rank, size): (usize, usize),
    ) -> Result<Self> {
        let name = <[u8; 128]>::try_from(name)
            .map_err(|_| Error::Ranks("what rank 0 sent is no name of a group of NCCL".into()))?;
        let (mut group, numbers) = (ptr::null_mut(), (size as c_int, rank as c_int));
        device.on_stream(&mut |_| {
            // SAFETY: the device is current on this thread; the group is written.
            let status = unsafe { (library.0.join)(&mut group, numbers.0, UniqueId(name), numbers.1) };
            check("ncclCommInitRank", status)
        })?;
        let group = Mutex::new(Group(group));
        Ok(Self { library, group, device: device.clone(), rank, size, one: Buffer::of(device, &[1f32])? })
    }

    /// Adds gradients in the order of the ranks, and of `own` in each. `sum` begins with zeros, and becomes the sum on every rank.
    /// All are f32 and of the same length.
    ///
    /// # Errors
    /// If the library or the device fails, or lengths differ.
    pub fn sum_in_order(&self, own: &[Buffer], sum: &Buffer) -> Result<()> {
        if own.iter().any(|gradient| gradient.bytes() != sum.bytes()) {
            return Err(Error::Ranks("the gradients of two micro-batches differ in length".into()));
        }
        let numbers = sum.bytes() / 4;
        for first in (0..numbers).step_by(PIECE) {
            let len = PIECE.min(numbers - first);
            let at = sum.at().plus(4 * first);
            if self.rank > 0 {
                self.receive(at, len, self.rank - 1)?;
            }
            for gradient in own {
                self.add(gradient.at().plus(4 * first), at, len)?;
            }
            if self.rank + 1 < self.size {
                self.send(at, len, self.rank + 1)?;
            }
        }
        self.broadcast(sum.at(), numbers, self.size - 1)
    }

    fn group(&self) -> MutexGuard<'_, Group> {
        self.group.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `to[i] += 1·from[i]`: a product with sums of one number, which are exact.
    fn add(&self, from: Address, to: Address, len: usize) -> Result<()> {
        let matrix = |at, pitch| Matrix { at, pitch, kind: Kind::F32 };
        self.device.product(&Product {
            form: Form::Backward,
            shape: [1, len, 1],
            a: matrix(self.one.at(), 1),
            b: matrix(from, len),
            c: matrix(to, len),
            add: true,
            parts: 1,
            split: false,
        })
    }

    fn send(&self, at: Address, len: usize, to: usize) -> Result<()> {
        let group = self.group();
        self.device.on_stream(&mut |Stream(stream)| {
            // SAFETY: so many numbers are the caller's, and stay until the stream has come here.
            let status =
                unsafe { (self.library.0.send)(pointer(at), len, NCCL_F32, to as c_int, group.0, stream) };
            check("ncclSend", status)
        })
    }

    fn receive(&self, at: Address, len: usize, from: usize) -> Result<()> {
        let group = self.group();
        self.device.on_stream(&mut |Stream(stream)| {
            // SAFETY: as above.
            let status = unsafe {
                (self.library.0.receive)(pointer(at), len, NCCL_F32, from as c_int, group.0, stream)
            };
            check("ncclRecv", status)
        })
    }

    fn broadcast(&self, at: Address, len: usize, from: usize) -> Result<()> {
        let group = self.group();
        self.device.on_stream(&mut |Stream(stream)| {
            let (at, from) = (pointer(at), from as c_int);
            // SAFETY: as above; source and target may be the same.
            let status = unsafe { (self.library.0.broadcast)(at, at, len, NCCL_F32, from, group.0, stream) };
            check("ncclBroadcast", status)
        })
    }
}

fn pointer(at: Address) -> *mut c_void {
    at.0 as *mut c_void
}

impl Drop for Linked {
    fn drop(&mut self) {
        // A group whose ranks have not all come so far cannot be left without waiting for them: the process ends.
        if !std::thread::panicking() && self.device.synchronise().is_ok() {
            // SAFETY: nothing uses the group any more.
            unsafe { (self.library.0.destroy)(self.group().0) };
        }
    }
}
