//! An NVIDIA GPU: the driver's memory, copies and launches on one stream, and cuBLASLt's products.

mod backend;
mod survey;

use std::cell::Cell;
use std::collections::HashMap;
use std::ffi::{CString, c_int};
use std::ptr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

pub use self::survey::{Card, Survey, count, has_driver, survey};
use self::survey::{blas_version, cards, check, started, version_of};
use super::ffi::{Copy2d, Driver, Handle, Status};
use super::kernels::MODULES;
use super::products::{Products, WORKSPACE};
use super::{Address, Description, Launch, Product, libraries};
use crate::error::{Error, Result};

/// `CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES`.
const DYNAMIC_SHARED: c_int = 8;
/// `CUDA_ERROR_OUT_OF_MEMORY`.
const OUT_OF_MEMORY: Status = 2;
/// Shared memory that a kernel may use without asking.
const PLAIN_SHARED: usize = 48 << 10;

/// A GPU.
pub struct Cuda {
    driver: Driver,
    ordinal: c_int,
    context: Handle,
    stream: Handle,
    description: Description,
    workspace: Address,
    state: Mutex<State>,
    /// A unique number of this opened GPU.
    number: u64,
}

/// Number of GPUs opened so far.
static OPENED: AtomicU64 = AtomicU64::new(1);

thread_local! {
    /// The GPU whose context is current on this thread.
    static CURRENT: Cell<u64> = const { Cell::new(0) };
}

struct State {
    products: Products,
    modules: HashMap<&'static str, Handle>,
    functions: HashMap<String, Function>,
    /// While profiling: events before and after, name, bytes, arithmetic.
    timed: Option<Vec<Timed>>,
}

#[derive(Clone, Copy)]
struct Function {
    handle: Handle,
    /// Dynamic shared memory that it is allowed to use.
    shared: usize,
}

struct Timed {
    events: [Handle; 2],
    name: String,
    bytes: usize,
    flop: usize,
}

// SAFETY: the handles may be used on any thread on which the context is current, which every call makes it; the rest is behind
// a lock.
unsafe impl Send for Cuda {}
// SAFETY: as above.
unsafe impl Sync for Cuda {}

impl Cuda {
    /// Opens the GPU with this number.
    ///
    /// # Errors
    /// If the GPU, the driver or cuBLASLt is missing, or too old.
    pub fn open(ordinal: usize) -> Result<Self> {
        let driver = libraries::driver()?;
        started(&driver)?;
        let cards = cards(&driver)?;
        let card = cards.get(ordinal).ok_or_else(|| {
            Error::Config(format!(
                "there is no device cuda:{ordinal}; this machine has {} GPU(s)",
                cards.len()
            ))
        })?;
        if !card.is_new_enough() {
            let (major, minor) = card.capability;
            return Err(Error::Config(format!(
                "{} has compute capability {major}.{minor} and no bf16 arithmetic; 8.0 or later is needed: choose \
                 --device cpu",
                card.name
            )));
        }
        let (blas, path) = libraries::blas()?;
        let (mut context, mut stream) = (ptr::null_mut(), ptr::null_mut());
        let ordinal = ordinal as c_int;
        // SAFETY: the context is written and held until this is dropped.
        check(&driver, "cuDevicePrimaryCtxRetain", unsafe { (driver.retain)(&mut context, ordinal) })?;
        // SAFETY: the context is alive.
        check(&driver, "cuCtxSetCurrent", unsafe { (driver.set_current)(context) })?;
        // SAFETY: the stream is written. 1: it does not wait for the default stream.
        check(&driver, "cuStreamCreate", unsafe { (driver.stream_create)(&mut stream, 1) })?;
        let mut workspace = 0;
        // SAFETY: the address is written.
        check(&driver, "cuMemAlloc", unsafe { (driver.allocate)(&mut workspace, WORKSPACE) })?;
        let workspace = Address(workspace);
        let versions = format!("CUDA {}, cuBLASLt {}", version_of(&driver), blas_version(&path));
        let description = Description { name: card.name.clone(), versions, memory: (card.memory, 0) };
        let state = State {
            products: Products::new(blas, workspace)?,
            modules: HashMap::new(),
            functions: HashMap::new(),
            timed: None,
        };
        let number = OPENED.fetch_add(1, Ordering::Relaxed);
        CURRENT.set(number);
        Ok(Self {
            driver,
            ordinal,
            context,
            stream,
            description,
            workspace,
            state: Mutex::new(state),
            number,
        })
    }

    /// The algorithms that cuBLASLt offers for a product, its first choice first, and the seconds that each takes.
    ///
    /// # Errors
    /// If the device fails.
    pub fn candidates(&self, product: &Product) -> Result<Vec<(String, f64)>> {
        const RUNS: usize = 10;
        let state = self.enter()?;
        state.products.candidates(product, self.stream, |run| {
            run()?;
            let [before, after] = [self.event()?, self.event()?];
            self.record(before)?;
            for _ in 0..RUNS {
                run()?;
            }
            self.record(after)?;
            self.wait()?;
            Ok(self.elapsed(before, after)? / RUNS as f64)
        })
    }

    /// Seconds between two completed events.
    fn elapsed(&self, before: Handle, after: Handle) -> Result<f64> {
        let mut milliseconds = 0f32;
        // SAFETY: both events were recorded and have passed.
        let status = unsafe { (self.driver.event_elapsed)(&mut milliseconds, before, after) };
        self.check("cuEventElapsedTime", status)?;
        Ok(f64::from(milliseconds) / 1e3)
    }

    fn check(&self, what: &str, status: Status) -> Result<()> {
        check(&self.driver, what, status)
    }

    /// Makes the context current on this thread, and locks the state.
    fn enter(&self) -> Result<MutexGuard<'_, State>> {
        if CURRENT.get() != self.number {
            // SAFETY: the context is alive.
            self.check("cuCtxSetCurrent", unsafe { (self.driver.set_current)(self.context) })?;
            CURRENT.set(self.number);
        }
        Ok(self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn function(&self, state: &mut State, launch: &Launch) -> Result<Handle> {
        let known = state.functions.get(launch.name).copied();
        let mut function = match known {
            Some(function) => function,
            None => {
                let module = self.module(state, launch.module)?;
                let name = CString::new(launch.name).map_err(|e| Error::Device(e.to_string()))?;
                let mut handle = ptr::null_mut();
                // SAFETY: the module is loaded; the handle is written.
                let status = unsafe { (self.driver.function)(&mut handle, module, name.as_ptr()) };
                self.check(&format!("looking up kernel {}", launch.name), status)?;
                Function { handle, shared: PLAIN_SHARED }
            }
        };
        if launch.shared > function.shared {
            let bytes = c_int::try_from(launch.shared).unwrap_or(c_int::MAX);
            // SAFETY: the function is loaded.
            let status = unsafe { (self.driver.function_set)(function.handle, DYNAMIC_SHARED, bytes) };
            self.check(&format!("{} bytes of shared memory for {}", launch.shared, launch.name), status)?;
            function.shared = launch.shared;
        }
        if known.is_none_or(|known| known.shared != function.shared) {
            state.functions.insert(launch.name.to_string(), function);
        }
        Ok(function.handle)
    }

    fn module(&self, state: &mut State, name: &'static str) -> Result<Handle> {
        if let Some(module) = state.modules.get(name) {
            return Ok(*module);
        }
        let text = MODULES.iter().find(|(module, _)| *module == name).map_or("", |(_, text)| text);
        let text = CString::new(text).map_err(|e| Error::Device(e.to_string()))?;
        let mut module = ptr::null_mut();
        // SAFETY: the text ends with a zero; the module is written; there are no options.
        let status = unsafe {
            (self.driver.module_load)(&mut module, text.as_ptr().cast(), 0, ptr::null_mut(), ptr::null_mut())
        };
        self.check(
            &format!("loading the kernels of {name} (the driver may be older than CUDA 12.4)"),
            status,
        )?;
        state.modules.insert(name, module);
        Ok(module)
    }

    /// Runs `work`, and measures its time while profiling.
    fn timed(
        &self,
        state: &mut State,
        (name, bytes, flop): (&str, usize, usize),
        work: impl FnOnce(&mut State) -> Result<()>,
    ) -> Result<()> {
        if state.timed.is_none() {
            return work(state);
        }
        let events = [self.event()?, self.event()?];
        self.record(events[0])?;
        work(state)?;
        self.record(events[1])?;
        if let Some(timed) = &mut state.timed {
            timed.push(Timed { events, name: name.to_string(), bytes, flop });
        }
        Ok(())
    }

    fn event(&self) -> Result<Handle> {
        let mut event = ptr::null_mut();
        // SAFETY: the event is written.
        self.check("cuEventCreate", unsafe { (self.driver.event_create)(&mut event, 0) })?;
        Ok(event)
    }

    fn record(&self, event: Handle) -> Result<()> {
        // SAFETY: event and stream are alive.
        self.check("cuEventRecord", unsafe { (self.driver.event_record)(event, self.stream) })
    }

    fn wait(&self) -> Result<()> {
        // SAFETY: the stream is alive.
        self.check("the work asked for", unsafe { (self.driver.stream_wait)(self.stream) })
    }

    fn copy2d(&self, copy: &Copy2d) -> Result<()> {
        // SAFETY: the caller's addresses and sizes, within memory that it owns.
        self.check("cuMemcpy2D", unsafe { (self.driver.copy_rows)(copy, self.stream) })
    }
}

impl Drop for Cuda {
    fn drop(&mut self) {
        // SAFETY: nothing uses the context any more: buffers hold the device.
        unsafe {
            (self.driver.set_current)(self.context);
            (self.driver.stream_wait)(self.stream);
            (self.driver.free)(self.workspace.0);
            (self.driver.release)(self.ordinal);
        }
    }
}
