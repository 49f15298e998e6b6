//! Preferences of people: votes, which question comes next, and one label from votes that contradict each other.

mod dawid_skene;
mod labels;
mod reliability;
mod strategy;
mod votes;

pub use dawid_skene::DawidSkene;
pub use labels::{Labelled, Labels, labelled};
pub use reliability::{Annotator, Reliability};
pub use strategy::{Open, Strategy, next};
pub use votes::{Choice, Vote};
