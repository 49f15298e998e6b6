//! The library as a program uses it: open a base, read pairs, train, score, sample.
//!
//! The command line is a thin layer over this room; both make the same checks. Notices go through the `log` crate.

mod adapted;
mod base;
mod companions;
mod dated;
pub mod drawn;
pub mod embedded;
mod export;
mod hub;
mod parcel;
pub mod prompts;
pub mod records;
mod rewards;
mod run;
pub mod stages;
pub mod stream;
mod threads;
mod trained;
mod trainer;

pub use adapted::Adapted;
pub use base::{AdapterUse, Base, OpenOptions, Place, is_gguf_file};
pub(crate) use dated::date_of_run;
pub use export::ExportTo;
pub use records::Pairs;
pub use rewards::{reward_identity, reward_in_short};
pub(crate) use run::adapt_alike;
pub use run::{Examples, Expected, Inputs, Ready, Run, announce, expected_memory};
pub use threads::{current_threads, set_threads, with_threads};
pub use trained::{Beneath, DataSettings, TrainedWith};
pub use trainer::{Trained, Trainer, TrainerBuilder};
