//! How a policy does on pairs it was not trained on.

pub mod preference;
