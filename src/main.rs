//! The command line program: run, print the error chain, exit code.

use std::alloc::{GlobalAlloc, Layout};
use std::io::Write;
use std::process::ExitCode;

use dpo_lora::Error;
use dpo_lora::report::screen;
use mimalloc::MiMalloc;

/// Large buffers come and go with every operation; glibc would map and fault them in each time, mimalloc keeps them.
/// A failed allocation ends the program as every other failure does, not by an abort.
struct Allocator;

#[global_allocator]
static ALLOCATOR: Allocator = Allocator;

// SAFETY: every call is passed unchanged to mimalloc; its result is returned or the process ends.
unsafe impl GlobalAlloc for Allocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as the caller promised.
        had(unsafe { MiMalloc.alloc(layout) }, layout.size())
    }
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as the caller promised.
        had(unsafe { MiMalloc.alloc_zeroed(layout) }, layout.size())
    }
    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: as the caller promised.
        unsafe { MiMalloc.dealloc(at, layout) }
    }
    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: as the caller promised.
        had(unsafe { MiMalloc.realloc(at, layout, size) }, size)
    }
}

/// No buffer of a step is this large. Code that asks for more has read the length of a file and names that file in its
/// error.
const IMPLAUSIBLE: usize = 1 << 40;

fn had(at: *mut u8, bytes: usize) -> *mut u8 {
    if at.is_null() && bytes < IMPLAUSIBLE {
        out_of_memory(bytes);
    }
    at
}

/// Allocates nothing: standard error has no buffer, and no destructor runs.
#[cold]
fn out_of_memory(bytes: usize) -> ! {
    let _ = writeln!(
        std::io::stderr(),
        "error: out of memory: the system refuses another {bytes} bytes (see `ulimit -v`); in training set \
         train.gradient_checkpointing: true, or lower train.per_device_train_batch_size, train.max_tokens_per_batch or data.max_length; \
         checkpoints written so far are complete, and --resume continues from the last one"
    );
    signal_hook::low_level::exit(1)
}

/// `mi_option_purge_delay` of `mimalloc.h`; the binding does not name it.
const PURGE_DELAY: libmimalloc_sys::mi_option_t = 15;

fn main() -> ExitCode {
    // By default freed pages are returned after 10 ms, and every operation faults its buffers in again: a third of a
    // step's time on short batches.
    // SAFETY: the option is set before any other thread runs.
    unsafe { libmimalloc_sys::mi_option_set(PURGE_DELAY, -1) };
    match dpo_lora::main() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Who interrupts a run knows that it did not fail.
            let is_error = !matches!(error, Error::Interrupted { .. });
            let mut text = format!("{}{error}", if is_error { "error: " } else { "" });
            let mut source = std::error::Error::source(&error);
            while let Some(cause) = source {
                // Causes that a message already quotes are not repeated.
                let cause_text = cause.to_string();
                if !text.contains(&cause_text) {
                    text.push_str(&format!("\n  because {cause_text}"));
                }
                source = cause.source();
            }
            // Standard error may be closed; the exit code still reports the failure.
            let _ = screen::line(&text);
            ExitCode::from(error.exit_code())
        }
    }
}
