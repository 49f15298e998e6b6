//! The decoder: one frozen base, two policies.
//!
//! A family's file turns `config.json` into a [`spec::DecoderSpec`], and [`decoder::Decoder`] computes it. Adapters of
//! linear modules act only in [`projection`]; prefixes in [`attention`], trained copies of embedding and head in the
//! decoder. Neither a family nor a weight format knows about them.

pub mod attention;
pub mod beside;
pub mod block;
pub mod cache;
pub mod config;
pub mod decoder;
pub mod engine;
mod expressions;
pub mod families;
pub mod gguf;
pub mod initialisation;
pub mod inventory;
pub mod layer_cache;
mod lengths;
pub mod mlp;
pub mod noise;
pub mod norm;
mod one_or_many;
pub mod pass;
pub mod prefixed;
pub mod projection;
mod selection;
pub mod spec;
pub mod targets;
pub mod tensors;
